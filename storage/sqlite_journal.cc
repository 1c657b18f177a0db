#include "storage/sqlite_journal.h"

#include "storage/journal_file.h"
#include "storage/journal_threads.h"

namespace bp::storage {

/// Of the thread that opened the journal.
struct SqliteJournal::Reads {
  JournalReader log;
  SearchReader search;
};

SqliteJournal::SqliteJournal(SqliteJournalOptions options) : options_(std::move(options)) {}

SqliteJournal::~SqliteJournal() {
  writer_.reset();
  indexer_.reset();
}

Result<std::unique_ptr<SqliteJournal>> SqliteJournal::open(SqliteJournalOptions options) {
  BP_TRY(prepare_journal_file(options));
  std::unique_ptr<SqliteJournal> journal(new SqliteJournal(std::move(options)));
  const SqliteJournalOptions& o = journal->options_;
  BP_ASSIGN(Database db, open_journal_for_writing(o));
  BP_ASSIGN(JournalWriter writer, JournalWriter::open(std::move(db), o.wal_pages));
  BP_ASSIGN(JournalReader log, JournalReader::open(o.path, o.vfs));
  BP_ASSIGN(std::optional<Record> newest, log.fetch(writer.last_number()));
  BP_ASSIGN(journal->indexer_, Indexer::open(o));
  BP_ASSIGN(SearchReader search, SearchReader::open(search_path_of(o), o.vfs));
  journal->reads_.reset(new Reads{std::move(log), std::move(search)});
  journal->writer_ = std::make_unique<Writer>(std::move(writer), o, journal->indexer_.get());
  if (newest) journal->writer_->newest_wall_ms = newest->header.wall_ms;
  return journal;
}

void SqliteJournal::commit(Commit c, std::function<void(Status)> done) {
  writer_->push(std::move(c), std::move(done));
}

Result<Recovered> SqliteJournal::recover() { return reads_->log.recover(); }

Status SqliteJournal::read_log(uint64_t from, uint64_t to,
                               const std::function<Status(const LogRecord&)>& each) {
  return reads_->log.each_record(from, to, [&](const Record& r) -> Status {
    BP_ASSIGN(LogRecord record, decode_record(r));
    return each(record);
  });
}

Result<std::vector<Entry>> SqliteJournal::history(uint64_t run_number, uint64_t last_commit,
                                                  uint64_t after_run_seq) {
  return reads_->log.history(run_number, last_commit, after_run_seq);
}

uint64_t SqliteJournal::searchable_up_to() { return indexer_->searchable(); }

Result<std::vector<EndedRow>> SqliteJournal::ended(const EndedQuery& query) {
  if (auto error = indexer_->error()) return *error;
  return reads_->search.find(query);
}

Result<std::optional<EndedRow>> SqliteJournal::ended_by_number(uint64_t run_number) {
  if (auto error = indexer_->error()) return *error;
  return reads_->search.by_number(run_number);
}

Result<std::optional<EndedRow>> SqliteJournal::ended_by_key(const std::string& key) {
  if (key.empty()) return std::optional<EndedRow>();
  if (auto error = indexer_->error()) return *error;
  if (!indexer_->filter.complete()) {
    return Error{ErrorCode::kUnavailable,
                 "the search index is being built anew (commit " +
                     std::to_string(indexer_->searchable()) + ")",
                 "Try again in a while, or submit without an idempotency key"};
  }
  if (!indexer_->filter.may_contain(uint64_t(search_term("key", key))))
    return std::optional<EndedRow>();
  return reads_->search.by_key(key, writer_->newest_wall_ms - kKeyKeptMs);
}

Result<std::map<int, uint64_t>> SqliteJournal::ended_counts() {
  if (auto error = indexer_->error()) return *error;
  return reads_->search.counts();
}

Result<std::optional<uint64_t>> SqliteJournal::number_of_old_id(const std::string& run_id) {
  return reads_->log.number_of_old_id(run_id);
}

Result<std::map<std::string, std::string>> SqliteJournal::secrets_of(uint64_t run_number) {
  return reads_->log.secrets_of(run_number);
}

Result<std::optional<std::string>> SqliteJournal::blob(const std::string& hash) {
  return reads_->log.blob(hash);
}

// On a connection of its own, so that it does not disturb reads.
Result<std::vector<std::string>> SqliteJournal::check(const CheckOptions& options) {
  BP_ASSIGN(JournalReader log, JournalReader::open(options_.path, options_.vfs));
  std::vector<std::string> lines;
  BP_TRY(log.check_rows(options.integrity, lines));
  if (auto error = indexer_->error()) lines.push_back("the search index: " + error->message);
  if (!options.chain) return lines;
  BP_ASSIGN(JournalReader::Anchor anchor, log.anchor());
  ChainCheck chain(anchor.number, anchor.root);
  std::vector<Finding> seals;
  BP_TRY(log.check_chain(options.signing_public_key, chain, seals));
  for (const Finding& f : chain.findings()) lines.push_back(f.to_line());
  for (const Finding& f : seals) lines.push_back(f.to_line());
  return lines;
}

Status SqliteJournal::on_writer(std::function<Status(Database&)> work) {
  return writer_->transact(std::move(work));
}
Status SqliteJournal::forget(const std::vector<uint64_t>& runs) { return indexer_->forget(runs); }
Status SqliteJournal::rebuild_search() { return indexer_->rebuild(); }
Status SqliteJournal::wait_searchable(int64_t timeout_ms) { return indexer_->wait(timeout_ms); }

}  // namespace bp::storage
