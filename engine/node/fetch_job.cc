#include "engine/node/fetch_job.h"

#include <algorithm>
#include <random>
#include <set>

#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/node/convert.h"

namespace bp::node {
namespace {
constexpr int64_t kPartDeadlineMs = 600'000;
constexpr int64_t kBackoffFirstMs = 200, kBackoffMaxMs = 5'000;
constexpr uint64_t kRealProgressBytes = 1 << 20;
constexpr int kSourcesMax = 64;

fetch::ObjectInfo info_of(const v1::FetchObject& o) {
  return {o.name(), o.size_bytes(), o.etag(), o.md5_base64()};
}
}  // namespace

struct FetchJob::Object {
  const v1::FetchObject& wanted;
  fetch::ObjectStore& store;
  std::unique_ptr<CacheEntry> entry;
  bool resumed = false;  // some parts are of an earlier run
};

Result<std::unique_ptr<FetchJob>> FetchJob::start(const v1::FetchObjects& wanted,
                                                  const std::string& work_dir,
                                                  const std::string& cache_dir) {
  auto bad = [](const std::string& why) {
    return Error{ErrorCode::kInvalidArgument, "fetch: " + why, {}};
  };
  if (wanted.fetch_key().empty() || wanted.fetch_key().size() > limits::kNameBytes)
    return bad("no usable fetch_key");
  if (wanted.objects_size() > limits::kObjectsMax || wanted.sources_size() > kSourcesMax) {
    return Error{ErrorCode::kTooLarge,
                 "fetch: " + std::to_string(wanted.objects_size()) + " objects of " +
                     std::to_string(wanted.sources_size()) + " sources",
                 {}};
  }
  std::set<std::vector<std::string>> paths;
  for (const auto& o : wanted.objects()) {
    if (o.source_index() >= static_cast<uint32_t>(wanted.sources_size()))
      return bad("object of unknown source " + std::to_string(o.source_index()));
    if (o.name().empty() || o.name().size() > limits::kObjectNameBytes)
      return bad("object name of " + std::to_string(o.name().size()) + " bytes");
    BP_ASSIGN(auto parts, check_path(o.path()));
    if (!paths.insert(std::move(parts)).second) return bad("two objects for the path " + o.path());
  }
  BP_ASSIGN(auto tree, SafeTree::open(work_dir + "/files"));
  std::unique_ptr<FetchJob> job(new FetchJob(wanted, std::move(tree), cache_dir));
  BP_TRY(job->open_sources(wanted));
  for (uint32_t i = 0; i < job->parallel_; ++i)
    job->threads_.emplace_back([j = job.get()] { j->work(); });
  job->threads_.emplace_back([j = job.get()] { j->coordinate(); });
  return job;
}

FetchJob::FetchJob(const v1::FetchObjects& wanted, SafeTree tree, std::string cache_dir)
    : fetch_key_(wanted.fetch_key()),
      cache_dir_(std::move(cache_dir)),
      wanted_(wanted.objects().begin(), wanted.objects().end()),
      tree_(std::move(tree)),
      parallel_(wanted.parallel_ranges() == 0 ? kParallelDefault
                                              : std::min(wanted.parallel_ranges(), kParallelMax)) {
  for (const auto& o : wanted_) bytes_total_ += o.size_bytes();
}

FetchJob::~FetchJob() {
  cancel();
  for (auto& t : threads_) t.join();
}

Status FetchJob::open_sources(const v1::FetchObjects& wanted) {
  for (const auto& s : wanted.sources()) {
    fetch::StoreOptions o;
    o.allow_private = wanted.allow_private_stores();
    o.cancelled = [this] { return cancelled_.load(); };
    BP_ASSIGN(auto store, fetch::ObjectStore::open(Secret(s.par_url()), std::move(o)));
    sources_.push_back(std::move(store));
  }
  return {};
}

void FetchJob::cancel() {
  fail(Error{ErrorCode::kCancelled, "fetch " + fetch_key_ + " was cancelled", {}});
}

void FetchJob::fail(Error error) {
  std::lock_guard lock(mutex_);
  if (finished_ || error_) return;
  if (error.code != ErrorCode::kCancelled)
    BP_LOG(warn, "fetch.failed", "key={} error=\"{}\"", fetch_key_, redact(error.to_string()));
  error.message = redact(error.message);
  error_ = std::move(error);
  cancelled_ = true;
  queue_.clear();
  changed_.notify_all();
}

bool FetchJob::wait_ms(int64_t ms) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, std::chrono::milliseconds(ms),
                            [this] { return cancelled_.load(); });
}

void FetchJob::coordinate() {
  for (const auto& o : wanted_) {
    Status s;
    try {
      s = begin_object(o);
    } catch (const std::exception& e) {
      s = Error{ErrorCode::kInternal, e.what(), {}};
    }
    if (!s.ok()) fail(std::move(s).error().with_context("fetch \"" + o.name() + "\""));
    std::unique_lock lock(mutex_);
    // A bound on what is open at once; the workers make room.
    changed_.wait(lock, [this] {  // untimed: its own workers, whose requests have deadlines
      return error_ || (queue_.size() < 2 * parallel_ && busy_ < 2 * parallel_);
    });
    if (error_) break;
  }
  std::unique_lock lock(mutex_);
  all_queued_ = true;
  changed_.notify_all();
  changed_.wait(lock, [this] { return error_ || busy_ == 0; });  // untimed: as above
  finished_ = true;
  if (!error_)
    BP_LOG(info, "fetch.done", "key={} objects={} bytes={} from_cache={}", fetch_key_,
           wanted_.size(), bytes_total_, bytes_from_cache_.load());
  changed_.notify_all();
}

Status FetchJob::begin_object(const v1::FetchObject& wanted) {
  auto object = std::make_shared<Object>(Object{wanted, *sources_[wanted.source_index()], nullptr});
  const std::string key = cache_key(info_of(wanted), object->store.describe());
  BP_ASSIGN(object->entry,
            CacheEntry::open(cache_dir_, key, wanted.size_bytes(), limits::kRangeBytes,
                             [this] { return cancelled_.load(); }));
  if (object->entry->complete()) {
    BP_TRY(tree_.place(wanted.path(), object->entry->data_path()));
    bytes_done_ += wanted.size_bytes();
    bytes_from_cache_ += wanted.size_bytes();
    ++objects_done_;
    return {};
  }
  BP_TRY(object->entry->prepare());
  const uint64_t have = object->entry->whole_bytes();
  object->resumed = have > 0;
  bytes_done_ += have;
  bytes_from_cache_ += have;
  {
    std::lock_guard lock(mutex_);
    ++busy_;
  }
  if (have == wanted.size_bytes()) return end_object(object);
  queue_parts(object);
  return {};
}

void FetchJob::queue_parts(const std::shared_ptr<Object>& object) {
  std::lock_guard lock(mutex_);
  if (error_) return;
  for (uint64_t i = 0; i < object->entry->part_count(); ++i) {
    if (!object->entry->is_whole(i)) queue_.push_back({object, i});
  }
  changed_.notify_all();
}

void FetchJob::work() {
  for (;;) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return error_ || finished_ || !queue_.empty(); });  // untimed: its queue
    if (error_ || finished_) return;
    Part part = std::move(queue_.front());
    queue_.pop_front();
    changed_.notify_all();
    lock.unlock();
    Status s;
    try {
      s = fetch_part(*part.object, part.index);
      if (s.ok()) {
        auto last = part.object->entry->mark(part.index);
        if (!last.ok()) s = last.error();
        if (last.ok() && *last) s = end_object(part.object);
      }
    } catch (const std::exception& e) {
      s = Error{ErrorCode::kInternal, e.what(), {}};
    }
    if (!s.ok())
      fail(std::move(s).error().with_context("fetch \"" + part.object->wanted.name() + "\""));
  }
}

Status FetchJob::fetch_part(Object& object, uint64_t part) {
  const uint64_t begin = object.entry->part_offset(part), size = object.entry->part_size(part);
  std::minstd_rand random(std::random_device{}());
  uint64_t got = 0, got_at_reset = 0;
  for (int tries = 1;; ++tries) {
    Status s = object.store.stream(
        info_of(object.wanted), begin + got, size - got,
        [&](std::string_view piece) -> Status {
          BP_TRY(object.entry->write(begin + got, piece));
          got += piece.size();
          bytes_done_ += piece.size();
          return {};
        },
        Deadline::in_ms(kPartDeadlineMs));
    if (s.ok()) return {};
    const bool again = s.error().code == ErrorCode::kHttpRetry;
    if (got - got_at_reset >= std::min(kRealProgressBytes, size / 4)) {
      tries = 1;
      got_at_reset = got;
    }
    if (!again || tries >= kTriesMax) {
      bytes_done_ -= got;
      return s;
    }
    const int64_t backoff = std::min(kBackoffFirstMs << (tries - 1), kBackoffMaxMs);
    BP_LOG(debug, "fetch.retry", "key={} try={} error=\"{}\"", fetch_key_, tries,
           redact(s.error().message));
    if (!wait_ms(backoff / 2 + static_cast<int64_t>(random() % static_cast<uint64_t>(backoff)))) {
      return Error{ErrorCode::kCancelled, "cancelled", {}};
    }
  }
}

Status FetchJob::end_object(const std::shared_ptr<Object>& object) {
  const auto& w = object->wanted;
  Status s =
      object->entry->finish(decode_md5(w.md5_base64()), [this] { return cancelled_.load(); });
  if (!s.ok() && s.error().code == ErrorCode::kCorruptData && object->resumed) {
    // Parts of an earlier run may be of other content: once more from the start.
    BP_LOG(warn, "fetch.restart", "key={} object=\"{}\" because what was resumed does not verify",
           fetch_key_, w.name());
    object->resumed = false;
    bytes_done_ -= w.size_bytes();
    queue_parts(object);
    return {};
  }
  if (!s.ok()) {
    bytes_done_ -= w.size_bytes();
    return s;
  }
  BP_TRY(tree_.place(w.path(), object->entry->data_path()));
  object->entry.reset();  // gives the lock back
  ++objects_done_;
  std::lock_guard lock(mutex_);
  --busy_;
  changed_.notify_all();
  return {};
}

v1::FetchStatus FetchJob::status() const {
  v1::FetchStatus out;
  out.set_fetch_key(fetch_key_);
  out.set_bytes_done(std::min(bytes_done_.load(), bytes_total_));
  out.set_bytes_total(bytes_total_);
  out.set_bytes_from_cache(bytes_from_cache_);
  out.set_objects_done(objects_done_);
  out.set_objects_total(static_cast<uint32_t>(wanted_.size()));
  std::lock_guard lock(mutex_);
  if (error_) to_proto(*error_, out.mutable_error());
  out.set_done(finished_ && !error_);
  return out;
}

bool FetchJob::running() const {
  std::lock_guard lock(mutex_);
  return !finished_ && !error_;
}

bool FetchJob::files_present() const {
  return std::all_of(wanted_.begin(), wanted_.end(),
                     [this](const auto& o) { return tree_.holds(o.path(), o.size_bytes()); });
}

}  // namespace bp::node
