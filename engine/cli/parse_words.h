// Words of the command line that need reading: times, durations, KEY=VALUE. kInvalidArgument says
// what was found and expected.
#pragma once
#include <cstdint>
#include <string>
#include <utility>

#include "bp/v1/control.pb.h"
#include "engine/base/result.h"
#include "engine/cli/engine_options.h"

namespace bp::cli {

/// "90s", "15m", "2h", "30d", "500ms"; a bare number is seconds.
Result<int64_t> parse_duration_ms(const std::string& text);
/// A duration (that long before `now_wall_ms`), a date or a date with time (UTC), or milliseconds
/// since 1970.
Result<int64_t> parse_time_ms(const std::string& text, int64_t now_wall_ms);
Result<std::pair<std::string, std::string>> parse_pair(const std::string& text);
/// NAME=TEXT, or NAME=@FILE for a file's bytes.
Result<std::pair<std::string, std::string>> parse_input(const std::string& text);
/// "failed" or "RUN_STATE_FAILED".
Result<v1::RunState> parse_run_state(const std::string& text);
Result<v1::RunFilter> parse_filter(const FilterOptions& o, int64_t now_wall_ms);
Result<v1::Overlap> parse_overlap(const std::string& text);

}  // namespace bp::cli
