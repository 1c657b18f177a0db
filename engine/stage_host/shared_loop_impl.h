// SharedLoop: the loop of a shared host. Private to shared_loop.cc (what is said and heard) and
// shared_loop_turn.cc (what each turn does). Thread: the host's main thread, but where noted.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <thread>
#include <unordered_map>

#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/stage_host/shared_attempt.h"
#include "engine/stage_host/shared_loop.h"
#include "engine/stage_host/worker_pool.h"

namespace bp::stage_host {

inline constexpr int64_t kMs = 1'000'000;
inline constexpr int64_t kQuietMs = 300;
inline constexpr int64_t kResultMs = 500;
inline constexpr int64_t kAwayCancelMs = 10'000;  // for stages to end after the daemon stayed away
inline constexpr size_t kBatchBytes = 1 << 20;    // a batch that has grown so large is sent
inline constexpr size_t kRememberedMax = 4096;    // acknowledged attempts, so that a late double is known
inline constexpr size_t kReceiveMany = 64;        // messages read before results are sent

class SharedLoop final : public SharedHost {
 public:
  SharedLoop(const HostOptions& options, Result<const bp_stage_v1*> plugin, bus::Dealer& dealer,
             Fd event)
      : options_(options),
        plugin_(std::move(plugin)),
        dealer_(dealer),
        wake_(std::move(event)),
        pool_(
            std::min(2u, std::max(1u, std::thread::hardware_concurrency())), options.slots,
            [this](SharedAttempt& a) { a.run(**plugin_); }, [this] { ring(); }) {}

  int run();
  bool stages_run() const { return pool_.running() > 0; }

  // SharedHost, any thread.
  void has_news(SharedAttempt& attempt) override;
  void waits(int change) override { pool_.waits(change); }
  std::shared_ptr<const Options> options() const override {
    std::lock_guard lock(mutex_);
    return common_;
  }

 private:
  void ring();
  void receive(std::string_view payload);
  void handle(std::string_view bytes);
  void on_run(std::string_view ref, std::string_view run);
  void on_other(const v1::StageMessage& m);
  void on_ack(uint64_t sequence);
  void acknowledged(SharedAttempt& attempt);
  SharedAttempt* find(const v1::AttemptRef& ref);
  SharedAttempt& fresh();
  void say_hello(int64_t now);
  void say_result(SharedAttempt& attempt, int64_t now);
  void say_messages(SharedAttempt& attempt);
  void append(const SharedAttempt& attempt, const v1::StageMessage& message);
  void flush(bool even_empty);
  void turn(int64_t now);
  void repeat(int64_t now);
  void beat(int64_t now);
  bool give_up(int64_t now);
  int64_t next_due(int64_t now) const;

  const HostOptions& options_;
  Result<const bp_stage_v1*> plugin_;
  bus::Dealer& dealer_;
  Fd wake_;
  std::atomic<bool> rung_{false};
  mutable std::mutex mutex_;
  std::shared_ptr<const Options> common_;  // guarded by mutex_
  std::vector<SharedAttempt*> news_;       // guarded by mutex_

  std::vector<std::unique_ptr<SharedAttempt>> all_;
  std::vector<SharedAttempt*> free_, arrived_, done_;
  std::unordered_map<std::string_view, SharedAttempt*> attempts_;  // by key; not the free ones
  std::unordered_map<uint64_t, SharedAttempt*> unacknowledged_;    // by sequence
  std::deque<uint64_t> said_;  // sequences in the order in which their results were said last
  std::deque<std::pair<SharedAttempt*, int64_t>> young_;  // with begun_ns, in the order of arrival
  std::vector<SharedAttempt*> old_;                       // beats are due
  std::deque<SharedAttempt*> remembered_;                 // acknowledged
  std::string batch_;
  uint64_t sequence_ = 0;
  size_t held_ = 0;  // attempts without an acknowledged result
  bool connected_ = false, looking_ = false, repeat_all_ = false;
  uint64_t awaited_hello_ = 0;  // sequence of the hello that is not answered yet; 0: none
  int64_t started_ns_ = monotonic_ns(), heard_ns_ = 0, hello_ns_ = 0, sent_ns_ = 0, beat_ns_ = 0;
  int64_t held_ns_ = started_ns_, away_since_ns_ = 0;
  // The last member: its threads use the others.
  WorkerPool pool_;
};

}  // namespace bp::stage_host
