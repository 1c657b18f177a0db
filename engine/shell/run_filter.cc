#include "engine/shell/run_filter.h"

#include <algorithm>

namespace bp::shell {
namespace {

bool within(int64_t at, int64_t from, int64_t to) {
  return (from == 0 || at >= from) && (to == 0 || at < to);
}

bool has_label(const core::RunState& run, const std::string& key, const std::string& value) {
  return std::binary_search(run.labels.begin(), run.labels.end(), std::pair(key, value));
}

}  // namespace

bool matches(const v1::RunFilter& f, const core::RunState& run) {
  if (!f.name().empty() && run.name != f.name()) return false;
  if (!f.workflow().empty() && run.workflow->name() != f.workflow()) return false;
  if (f.states_size() > 0 &&
      std::find(f.states().begin(), f.states().end(), int(run.state())) == f.states().end())
    return false;
  if (!f.error_code().empty() && (!run.error() || run.error()->code() != f.error_code()))
    return false;
  if (f.ended_from_wall_ms() != 0 || f.ended_to_wall_ms() != 0) return false;  // it has not ended
  if (!within(run.n.created_wall_ms, f.created_from_wall_ms(), f.created_to_wall_ms()))
    return false;
  return std::all_of(f.labels().begin(), f.labels().end(),
                     [&](const auto& l) { return has_label(run, l.first, l.second); });
}

bool may_match_ended(const v1::RunFilter& f) {
  if (f.live_only()) return false;
  return f.states_size() == 0 || std::any_of(f.states().begin(), f.states().end(),
                                             [](int s) { return core::is_ended(v1::RunState(s)); });
}

storage::EndedQuery ended_query(const v1::RunFilter& f) {
  storage::EndedQuery q;
  q.name = f.name();
  q.workflow = f.workflow();
  q.error_code = f.error_code();
  for (int s : f.states()) {
    if (core::is_ended(v1::RunState(s))) q.states.push_back(s);
  }
  q.labels = {f.labels().begin(), f.labels().end()};
  q.created_from_wall_ms = f.created_from_wall_ms();
  q.created_to_wall_ms = f.created_to_wall_ms();
  q.ended_from_wall_ms = f.ended_from_wall_ms();
  q.ended_to_wall_ms = f.ended_to_wall_ms();
  return q;
}

}  // namespace bp::shell
