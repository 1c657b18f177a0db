// Stage logs as files: LOG_DIR/RUN_ID/STAGE.log. Thread: the executor's.
#pragma once
#include "engine/shell/world.h"

namespace bp::daemon {

class FileLogs final : public shell::StageLogs {
 public:
  static constexpr uint64_t kFileBytesMax =
      64 << 20;  // a stage that talks without end stops being kept
  explicit FileLogs(std::string folder) : folder_(std::move(folder)) {}
  void append(const std::string& run_id, const std::string& stage,
              const std::string& line) override;
  std::string read(const std::string& run_id, const std::string& stage, uint64_t offset,
                   size_t max_bytes) override;

 private:
  std::string folder_;
};

}  // namespace bp::daemon
