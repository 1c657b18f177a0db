// Reading side of the search index.
#include <algorithm>

#include "storage/search_index.h"

namespace bp::storage {
namespace {

constexpr uint64_t kSegmentRuns = 1 << kSegmentBits;

std::vector<std::vector<int64_t>> term_groups(const EndedQuery& q) {
  std::vector<std::vector<int64_t>> groups;
  auto add = [&](std::string_view field, const std::string& value) {
    if (!value.empty()) groups.push_back({search_term(field, value)});
  };
  add("name", q.name);
  for (const auto& [key, value] : q.labels) add(key + "=", value);
  add("error", q.error_code);
  add("workflow", q.workflow);
  if (!q.states.empty()) {
    groups.emplace_back();
    for (int state : q.states) groups.back().push_back(search_term("state", std::to_string(state)));
  }
  return groups;
}

}  // namespace

Result<SearchReader> SearchReader::open(const std::string& path, const std::string& vfs) {
  SearchReader r;
  BP_ASSIGN(r.db_, Database::open(path, SQLITE_OPEN_READONLY, vfs));
  BP_TRY(r.db_.exec("PRAGMA cache_size = -8192"));
  const std::pair<Statement*, const char*> all[] = {
      {&r.row_, "SELECT row FROM runs WHERE run_number = ?"},
      {&r.scan_, "SELECT row FROM runs WHERE run_number BETWEEN ? AND ? ORDER BY run_number DESC"},
      {&r.postings_, "SELECT numbers FROM postings WHERE segment = ? AND term = ?"},
      {&r.segments_,
       "SELECT segment FROM segments WHERE segment <= ? AND created_max >= ? AND created_min <= ? "
       "AND ended_max >= ? AND ended_min <= ? ORDER BY segment DESC"},
  };
  for (const auto& [statement, sql] : all) {
    BP_ASSIGN(*statement, Statement::prepare(r.db_.get(), sql));
  }
  return r;
}

Status SearchReader::scan(const EndedQuery& q, uint64_t from, uint64_t to,
                          std::vector<EndedRow>& rows) {
  scan_.reset();
  scan_.num(int64_t(from)).num(int64_t(std::min<uint64_t>(to, INT64_MAX)));
  while (rows.size() < q.limit) {
    BP_ASSIGN(bool there, scan_.step());
    if (!there) break;
    BP_ASSIGN(EndedRow row, decode_ended(scan_.bytes_at(0)));
    if (matches(row, q)) rows.push_back(std::move(row));
  }
  scan_.reset();
  return {};
}

Result<std::vector<uint16_t>> SearchReader::offsets(uint64_t segment,
                                                    const std::vector<int64_t>& terms) {
  std::vector<uint16_t> out;
  for (int64_t term : terms) {
    postings_.reset();
    postings_.num(int64_t(segment)).num(term);
    while (true) {
      BP_ASSIGN(bool there, postings_.step());
      if (!there) break;
      read_posting(postings_.bytes_at(0), out);
    }
  }
  postings_.reset();
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

Status SearchReader::in_segment(uint64_t segment, const Groups& groups, const EndedQuery& q,
                                std::vector<EndedRow>& rows) {
  std::vector<uint16_t> found;
  for (size_t i = 0; i < groups.size(); ++i) {
    BP_ASSIGN(std::vector<uint16_t> more, offsets(segment, groups[i]));
    if (i == 0) {
      found = std::move(more);
    } else {
      std::vector<uint16_t> both;
      std::set_intersection(found.begin(), found.end(), more.begin(), more.end(),
                            std::back_inserter(both));
      found = std::move(both);
    }
    if (found.empty()) return {};
  }
  for (auto it = found.rbegin(); it != found.rend() && rows.size() < q.limit; ++it) {
    const uint64_t run = (segment << kSegmentBits) + *it;
    if (q.before_run_number != 0 && run >= q.before_run_number) continue;
    BP_ASSIGN(std::optional<EndedRow> row, by_number(run));
    if (row && matches(*row, q)) rows.push_back(std::move(*row));
  }
  return {};
}

Result<std::vector<EndedRow>> SearchReader::find(const EndedQuery& q) {
  std::vector<EndedRow> rows;
  const uint64_t last = q.before_run_number == 0 ? uint64_t{INT64_MAX} : q.before_run_number - 1;
  const Groups groups = term_groups(q);
  const bool timed = q.created_from_wall_ms != 0 || q.created_to_wall_ms != 0 ||
                     q.ended_from_wall_ms != 0 || q.ended_to_wall_ms != 0;
  if (groups.empty() && !timed) {
    BP_TRY(scan(q, 0, last, rows));
    return rows;
  }
  auto from = [](int64_t v) { return v == 0 ? INT64_MIN : v; };
  auto to = [](int64_t v) { return v == 0 ? INT64_MAX : v; };
  segments_.reset();
  segments_.num(int64_t(last >> kSegmentBits))
      .num(from(q.created_from_wall_ms))
      .num(to(q.created_to_wall_ms))
      .num(from(q.ended_from_wall_ms))
      .num(to(q.ended_to_wall_ms));
  while (rows.size() < q.limit) {
    BP_ASSIGN(bool there, segments_.step());
    if (!there) break;
    const auto segment = uint64_t(segments_.int_at(0));
    if (groups.empty()) {
      BP_TRY(
          scan(q, segment * kSegmentRuns, std::min(last, (segment + 1) * kSegmentRuns - 1), rows));
    } else {
      BP_TRY(in_segment(segment, groups, q, rows));
    }
  }
  segments_.reset();
  return rows;
}

Result<std::optional<EndedRow>> SearchReader::by_number(uint64_t run_number) {
  row_.reset();
  row_.num(int64_t(std::min<uint64_t>(run_number, INT64_MAX)));
  BP_ASSIGN(bool there, row_.step());
  if (!there) {
    row_.reset();
    return std::optional<EndedRow>();
  }
  Result<EndedRow> row = decode_ended(row_.bytes_at(0));
  row_.reset();
  if (!row) return std::move(row).error();
  return std::optional<EndedRow>(std::move(row).value());
}

Result<std::optional<EndedRow>> SearchReader::by_key(const std::string& key,
                                                     int64_t since_wall_ms) {
  const std::vector<int64_t> term = {search_term("key", key)};
  segments_.reset();
  segments_.num(INT64_MAX).num(INT64_MIN).num(INT64_MAX).num(since_wall_ms).num(INT64_MAX);
  std::optional<EndedRow> found;
  while (!found) {
    BP_ASSIGN(bool there, segments_.step());
    if (!there) break;
    const auto segment = uint64_t(segments_.int_at(0));
    BP_ASSIGN(std::vector<uint16_t> hits, offsets(segment, term));
    for (auto it = hits.rbegin(); it != hits.rend() && !found; ++it) {
      BP_ASSIGN(std::optional<EndedRow> row, by_number((segment << kSegmentBits) + *it));
      if (row && row->idempotency_key == key && row->ended_wall_ms >= since_wall_ms)
        found = std::move(row);
    }
  }
  segments_.reset();
  return found;
}

Result<std::vector<EndedRow>> SearchReader::oldest(int64_t ended_before_wall_ms, uint64_t limit) {
  std::vector<EndedRow> rows;
  BP_ASSIGN(Statement s, Statement::prepare(db_.get(), "SELECT row FROM runs ORDER BY run_number"));
  while (rows.size() < limit) {
    BP_ASSIGN(bool there, s.step());
    if (!there) break;
    BP_ASSIGN(EndedRow row, decode_ended(s.bytes_at(0)));
    if (ended_before_wall_ms == 0 || row.ended_wall_ms < ended_before_wall_ms)
      rows.push_back(std::move(row));
  }
  return rows;
}

Result<std::map<int, uint64_t>> SearchReader::counts() {
  BP_ASSIGN(Statement s,
            Statement::prepare(db_.get(), "SELECT state, runs FROM counts WHERE runs > 0"));
  std::map<int, uint64_t> out;
  while (true) {
    BP_ASSIGN(bool row, s.step());
    if (!row) return out;
    out[int(s.int_at(0))] = uint64_t(s.int_at(1));
  }
}

}  // namespace bp::storage
