#include "tests/integration/rank/rank_cluster.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "engine/base/build.h"
#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "engine/base/lease_page.h"
#include "engine/base/log.h"
#include "runtime/comm/shm_segment.h"

namespace bp::rt::test {

RankCluster::RankCluster(ClusterOptions options) : o_(std::move(options)) {
  log_init("test", "err");
  folder_ = "/tmp/" + random_id("bp-rank-test");
  REQUIRE(make_dirs(folder_).ok());
  context_ = std::move(*bus::Context::start());
  head_keys_ = bus::make_key_pair();
  rank_keys_ = bus::make_key_pair();
  RankGroupOptions g;
  g.endpoint = "tcp://127.77.0.10:0";
  g.keys = head_keys_;
  g.rank_public_key = rank_keys_.public_key;
  g.build_id = o_.rank_build_id.empty() ? build_id() : o_.rank_build_id;
  g.lease_ms = o_.lease_ms;
  auto group = RankGroup::open(*context_, g);
  if (!group.ok()) FAIL(group.error().to_string());
  group_ = std::move(*group);
  auto& plan = o_.plan;
  plan.set_tp_size(o_.tp);
  plan.set_pp_size(o_.pp);
  if (plan.kv_blocks() == 0) plan.set_kv_blocks(64);
  if (plan.kv_block_tokens() == 0) plan.set_kv_block_tokens(16);
  for (uint32_t r = 0; r < o_.tp * o_.pp; ++r) {
    auto* p = static_cast<int>(r) < plan.ranks_size() ? plan.mutable_ranks(static_cast<int>(r)) : plan.add_ranks();
    p->set_rank(r);
    p->set_tp_rank(r % o_.tp);
    p->set_pp_rank(r / o_.tp);
    p->set_node_index(r / o_.tp);
    weights_.push_back(segment("weights", 0));
    kv_.push_back(segment("kv", 0));
  }
  processes_.resize(o_.tp * o_.pp);
}

RankCluster::~RankCluster() {
  for (auto& p : processes_) {
    if (p.pid == 0) continue;
    (void)process_signal(p, SIGKILL);
    (void)process_wait_gone(p, Deadline::in_ms(2'000));
  }
  (void)remove_tree(folder_);
}

Fd RankCluster::segment(const char* name, uint64_t size_bytes) {
  Fd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REQUIRE(fd);
  if (size_bytes) REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(size_bytes)) == 0);
  return fd;
}

void RankCluster::start(Epoch epoch, const std::vector<std::string>& model_paths) {
  auto expected = group_->expect_group(epoch, o_.plan);
  if (!expected.ok()) FAIL(expected.error().to_string());
  comm_.clear();
  for (uint32_t p = 0; p < o_.pp; ++p) {
    comm_.push_back(segment("comm", shm_segment_bytes_min(o_.tp) + o_.tp * o_.tp * (64 << 10)));
  }
  for (uint32_t r = 0; r < o_.tp * o_.pp; ++r) {
    start_rank(r, epoch, r < model_paths.size() ? model_paths[r] : "");
  }
}

void RankCluster::start_rank(uint32_t rank, Epoch epoch, const std::string& model_path) {
  v1::RankConfig c;
  c.set_run_id("test");
  c.mutable_group_epoch()->set_incarnation(epoch.incarnation);
  c.mutable_group_epoch()->set_counter(epoch.counter);
  c.set_rank(rank);
  c.set_tp_rank(rank % o_.tp);
  c.set_pp_rank(rank / o_.tp);
  c.set_node_id("n9-" + std::to_string(rank / o_.tp));
  c.set_address("127.77.0." + std::to_string(10 + rank / o_.tp));
  c.set_rendezvous_endpoint(group_->endpoint());
  c.set_head_public_key(head_keys_.public_key);
  c.set_rank_public_key(rank_keys_.public_key);
  c.set_rank_secret_key(rank_keys_.secret_key.reveal());
  *c.mutable_plan() = o_.plan;
  c.set_model_path(model_path.empty() ? o_.model_path : model_path);
  c.set_exact(o_.exact);
  c.set_threads(1);
  Fd config = segment("config", 0), lease = segment("lease", LeasePage::kSize);
  std::string bytes = c.SerializeAsString();
  REQUIRE(::write(config.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  REQUIRE(::fcntl(config.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
  SpawnOptions s;
  s.program = o_.program;
  s.log_file = folder_ + "/rank-" + std::to_string(rank) + ".log";
  s.fds = {{config.get(), 3}, {lease.get(), 4}, {weights_[rank].get(), 5}, {kv_[rank].get(), 6}};
  if (o_.tp > 1) s.fds.push_back({comm_[rank / o_.tp].get(), 7});
  s.die_with_parent = true;
  s.env = std::exchange(env_, {});
  auto id = process_spawn(s);
  if (!id.ok()) FAIL(id.error().to_string());
  processes_[rank] = *id;
}

void RankCluster::restart_rank(uint32_t rank, Epoch epoch, bool memory_whole) {
  const ProcessId old = processes_[rank];
  REQUIRE(process_wait_gone(old, Deadline::in_ms(5'000)).ok());
  env_ = {{"BP_REPLACES", std::to_string(old.pid) + ":" + std::to_string(old.start_ticks) + ":" + old.boot_id},
          {"BP_MEMORY_WHOLE", memory_whole ? "1" : "0"}};
  start_rank(rank, epoch);
}

bool RankCluster::wait_for(RankGroupEvent::Kind kind, int64_t ms, RankGroupEvent* event) {
  Deadline deadline = Deadline::in_ms(ms);
  while (!deadline.passed()) {
    for (auto& e : group_->poll(deadline)) {
      if (event) *event = e;
      if (e.kind == RankGroupEvent::Kind::kBroken && e.kind != kind) {
        UNSCOPED_INFO("the group broke: " << e.error.to_string());
        return false;
      }
      if (e.kind == kind) return true;
    }
  }
  for (uint32_t r = 0; r < processes_.size(); ++r) UNSCOPED_INFO("rank " << r << ": " << log(r));
  return false;
}

void RankCluster::kill(uint32_t rank, int signal) { REQUIRE(process_signal(processes_[rank], signal).ok()); }

int RankCluster::wait_exit(uint32_t rank, int64_t ms, bool polling) {
  Deadline deadline = Deadline::in_ms(ms);
  for (;;) {
    int status = 0;
    if (::waitpid(processes_[rank].pid, &status, WNOHANG) == processes_[rank].pid) {
      processes_[rank].pid = 0;
      return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    if (deadline.passed()) return -1;
    if (polling) (void)group_->poll(Deadline::in_ms(10));
    else ::usleep(10'000);
  }
}

std::string RankCluster::log(uint32_t rank) const {
  auto text = read_file(folder_ + "/rank-" + std::to_string(rank) + ".log", 1 << 20);
  return text.ok() ? *text : text.error().message;
}

v1::Step make_step(uint64_t number, std::vector<uint32_t> tokens, uint32_t position) {
  v1::Step step;
  step.set_number(number);
  auto* s = step.add_sequences();
  s->set_sequence_id(1);
  for (uint32_t t : tokens) s->add_tokens(t);
  s->set_position(position);
  for (uint32_t b = 0; b <= (position + tokens.size()) / 16; ++b) s->add_blocks(b);
  s->set_sample(true);
  return step;
}

}  // namespace bp::rt::test
