// StatusPages: /metrics for Prometheus, the dashboard page and its /state. Any thread.
#pragma once
#include <memory>
#include <string>

#include "runtime/head/engine_loop.h"
#include "runtime/head/http_server.h"

namespace bp::rt {

struct StatusOptions {
  std::string run_id;
  std::string deployment;
  std::string model;
  std::string stand_in;  // "cpu stand-in for VM.GPU.A10.2"
  std::string endpoint;  // of the application's port
  Epoch epoch;
  v1::DeploymentPlan plan;
};

class StatusPages {
 public:
  StatusPages(StatusOptions options, const EngineLoop& engine, const HttpServer& http);
  std::string metrics() const;
  /// The deployment as JSON: layout, ranks and their states, load, last error.
  std::string state_json() const;
  /// The handler of the metrics port.
  void handle_metrics(const HttpRequest& request, HttpAnswer& answer) const;
  /// The handler of the dashboard port.
  void handle_dashboard(const HttpRequest& request, HttpAnswer& answer) const;

 private:
  StatusOptions options_;
  const EngineLoop& engine_;
  const HttpServer& http_;
  int64_t started_ns_;
};

/// One self-contained page; it fetches /state every second.
extern const char* const kDashboardPage;

}  // namespace bp::rt
