// A deployment's stages as they happen: redrawn lines on a terminal, one line per change elsewhere.
#pragma once
#include <cstdio>
#include <map>
#include <string>

#include "bp/v1/control.pb.h"

namespace bp::cli {

/// "fetch_weights  running (attempt 2)  49.2/98.4 MB  1.3 s  note". `now_wall_ms` ends a running
/// stage's time.
std::string stage_line(const v1::StageView& stage, int64_t now_wall_ms);
/// "serving", "running", ... of any state.
std::string state_word(v1::RunState state);
std::string state_word(v1::StageState state);
/// "4 processes on 2 nodes, ..." for `bp show`.
std::string run_text(const v1::RunView& run, int64_t now_wall_ms);
/// The table of `bp list`.
std::string list_text(const v1::RunList& list, int64_t now_wall_ms);

class Progress {
 public:
  /// Draws on `out`; `terminal` chooses the form.
  Progress(std::FILE* out, bool terminal) : out_(out), terminal_(terminal) {}
  void update(const v1::RunView& run);

 private:
  void redraw(const v1::RunView& run);
  void append(const v1::RunView& run);

  std::FILE* out_;
  bool terminal_;
  int drawn_lines_ = 0;
  std::string last_run_;
  std::map<std::string, std::string> last_;  // by stage: what was printed last
};

}  // namespace bp::cli
