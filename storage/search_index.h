// Search: ended runs in a file of their own (search.db), derived from the log and built anew when
// it is lost. Written in batches by one thread, read by another.
//
//   runs      run_number -> summary (encode_ended); almost always appended to
//   postings  (segment, term, batch) -> the batch's runs of that segment that have the term, as
//             varint gaps. A segment is 65,536 run numbers, so every write stays in a small, warm
//             part of the tree, however many runs there are; a search visits segments from the
//             newest down.
//   terms     64 bits of a keyed hash of "field\0value" (name, workflow, state, error, label, key);
//             a run is compared in full before it is given out, so a collision costs time only
//   segments  bounds of creation and end per segment, to skip those outside of a time range
//   keys      hashes of idempotency keys per batch, from which the filter in memory is filled
//   facts     watermark (commit) and its root: what is contained, and of which journal
// Deleting a run leaves its postings; they lead to nothing. Errors: kJournal, kDiskFull.
#pragma once
#include <algorithm>
#include <vector>

#include "storage/key_filter.h"
#include "storage/record.h"
#include "storage/sqlite_db.h"

namespace bp::storage {

inline constexpr int kSegmentBits = 16;

/// What one commit changes.
struct SearchChange {
  uint64_t commit = 0;
  int64_t wall_ms = 0;
  std::string root;
  std::vector<EndedRow> ended;
  std::vector<uint64_t> revived;
};
/// Of a record; erased summaries are left out.
Result<SearchChange> search_change(const Record& record);

/// Hash of a field and its value.
int64_t search_term(std::string_view field, std::string_view value);
/// Appends the offsets of a posting; stops where it is damaged (runs are compared in full anyway).
void read_posting(std::string_view bytes, std::vector<uint16_t>& offsets);

class SearchWriter {
 public:
  /// Creates; a damaged or older file is removed and begun anew.
  static Result<SearchWriter> open(const std::string& path, const std::string& vfs);
  /// Before anything is added. It outlives the writer.
  void use(KeyFilter* filter) { filter_ = filter; }
  /// In the order of the commits. Nothing is written before flush().
  void add(SearchChange change);
  /// One transaction with everything added, and the watermark.
  Status flush();
  /// Of runs that were archived or dropped.
  Status remove(const std::vector<uint64_t>& runs);
  Status clear();
  /// Commits up to here that were not added are gone from the log.
  void skip_to(uint64_t commit) { added_up_to_ = std::max(added_up_to_, commit); }
  size_t pending_runs() const { return pending_runs_; }
  uint64_t watermark() const { return watermark_; }
  uint64_t added_up_to() const { return added_up_to_; }
  const std::string& watermark_root() const { return root_; }
  /// Fills the filter from the keys of the last day.
  Status load_filter(int64_t now_wall_ms);

 private:
  struct Posting {
    uint64_t segment;
    int64_t term;
    uint16_t offset;
  };
  struct Segment {
    int64_t created_min, created_max, ended_min, ended_max;
  };
  SearchWriter() = default;
  Status prepare_all();
  Status write();
  Status put_run(const EndedRow& row);
  Status drop_run(uint64_t run);
  Status put_postings();
  Status put_segments();
  Status put_keys();
  Status put_watermark();
  void note_terms(const EndedRow& row);

  Database db_;
  Statement run_, old_run_, drop_, posting_, last_posting_, segment_, count_, keys_, drop_keys_,
      fact_;
  KeyFilter* filter_ = nullptr;
  std::vector<SearchChange> pending_;
  size_t pending_runs_ = 0;
  std::vector<Posting> postings_;
  std::map<uint64_t, Segment> segments_;
  std::map<int, int64_t> counts_;
  std::string keys_of_batch_;
  std::vector<std::pair<uint64_t, int64_t>> key_times_;
  uint64_t watermark_ = 0, added_up_to_ = 0, batch_ = 0;
  int64_t wall_ms_ = 0, newest_key_ms_ = 0;
  std::string root_;
  std::string buffer_;
};

class SearchReader {
 public:
  static Result<SearchReader> open(const std::string& path, const std::string& vfs);
  Result<std::vector<EndedRow>> find(const EndedQuery& query);
  Result<std::optional<EndedRow>> by_number(uint64_t run_number);
  /// Ended at `since_wall_ms` or later; the latest.
  Result<std::optional<EndedRow>> by_key(const std::string& key, int64_t since_wall_ms);
  Result<std::map<int, uint64_t>> counts();
  /// By rising run number; those that ended before (0: whenever).
  Result<std::vector<EndedRow>> oldest(int64_t ended_before_wall_ms, uint64_t limit);

 private:
  using Groups = std::vector<std::vector<int64_t>>;  // all groups; of a group any term
  Status scan(const EndedQuery& q, uint64_t from, uint64_t to, std::vector<EndedRow>& rows);
  Status in_segment(uint64_t segment, const Groups& groups, const EndedQuery& q,
                    std::vector<EndedRow>& rows);
  Result<std::vector<uint16_t>> offsets(uint64_t segment, const std::vector<int64_t>& terms);
  Database db_;
  Statement row_, scan_, postings_, segments_;
};

}  // namespace bp::storage
