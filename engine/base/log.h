// Structured log lines: BP_LOG(info, "stage.started", "run={} stage={}", run, stage).
// Event names are noun.verb; one info line per transition; error = a person must act.
// Never pass a secret: log `Secret` values (secret.h), which print as ***.
// Any thread. Not for headers that a .cu includes, nor for engine/core and runtime/ops.
#pragma once
#include <spdlog/spdlog.h>

#include <string>

namespace bp {
/// Sends log lines to standard error (or `file` when not empty), each with time, level, program and pid.
/// `level`: trace, debug, info, warn, error.
void log_init(const std::string& program, const std::string& level, const std::string& file = {});
}  // namespace bp

#define BP_LOG(lvl, event, ...)                                            \
  do {                                                                     \
    if (::spdlog::should_log(::spdlog::level::lvl))                        \
      ::spdlog::log(::spdlog::level::lvl, "{} {}", event, ::fmt::format(__VA_ARGS__)); \
  } while (0)
