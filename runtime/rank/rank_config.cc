#include "runtime/rank/rank_config.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string_view>

#include "engine/base/limits.h"
#include "engine/bus/bus.h"

namespace bp::rt {
namespace {

Result<std::string> read_all(int fd) {
  std::string out;
  for (;;) {
    char buffer[16 << 10];
    ssize_t n = ::pread(fd, buffer, sizeof buffer, static_cast<off_t>(out.size()));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("read the config (fd " + std::to_string(fd) + ")", errno);
    if (n == 0) return out;
    out.append(buffer, static_cast<size_t>(n));
    if (out.size() > limits::kMessageBytes) {
      return Error{ErrorCode::kTooLarge,
                   "the config has more than " + std::to_string(limits::kMessageBytes) + " bytes", {}};
    }
  }
}

Status check(const v1::RankConfig& c) {
  auto bad = [](const std::string& what) { return Error{ErrorCode::kInvalidArgument, "rank config: " + what, {}}; };
  const auto& plan = c.plan();
  const auto ranks = static_cast<uint32_t>(plan.ranks_size());
  if (ranks == 0 || ranks > static_cast<uint32_t>(limits::kRanksMax) ||
      uint64_t{plan.tp_size()} * plan.pp_size() != ranks) {
    return bad("plan.ranks has " + std::to_string(ranks) + " entries, expected tp_size x pp_size of them");
  }
  for (uint32_t r = 0; r < ranks; ++r) {
    const auto& p = plan.ranks(static_cast<int>(r));
    if (p.rank() != r || p.tp_rank() != r % plan.tp_size() || p.pp_rank() != r / plan.tp_size()) {
      return bad("plan.ranks[" + std::to_string(r) + "] is out of place");
    }
  }
  if (c.rank() >= ranks) return bad("rank " + std::to_string(c.rank()) + " of " + std::to_string(ranks));
  const auto& me = plan.ranks(static_cast<int>(c.rank()));
  if (me.tp_rank() != c.tp_rank() || me.pp_rank() != c.pp_rank()) return bad("tp_rank or pp_rank differ from the plan");
  if (plan.kv_blocks() == 0 || plan.kv_block_tokens() == 0) return bad("plan.kv_blocks or plan.kv_block_tokens is 0");
  if (c.threads() > 1024) return bad("threads is " + std::to_string(c.threads()) + ", expected at most 1024");
  const std::pair<const char*, const std::string*> texts[] = {
      {"node_id", &c.node_id()},         {"address", &c.address()},
      {"rendezvous_endpoint", &c.rendezvous_endpoint()}, {"head_public_key", &c.head_public_key()},
      {"rank_public_key", &c.rank_public_key()},         {"rank_secret_key", &c.rank_secret_key()},
      {"model_path", &c.model_path()}};
  for (auto [name, text] : texts) {
    if (text->empty()) return bad(std::string(name) + " is empty");
  }
  return {};
}

}  // namespace

Predecessor predecessor() {
  Predecessor p;
  const char* text = std::getenv("BP_REPLACES");
  const char* whole = std::getenv("BP_MEMORY_WHOLE");
  if (!text) return p;
  char* end = nullptr;
  const long pid = std::strtol(text, &end, 10);
  if (pid <= 0 || *end != ':') return p;
  const unsigned long long ticks = std::strtoull(end + 1, &end, 10);
  if (*end != ':') return p;
  p.process = {static_cast<pid_t>(pid), ticks, end + 1};
  p.memory_whole = whole && std::string_view(whole) == "1";
  return p;
}

Result<v1::RankConfig> read_rank_config(int fd) {
  BP_ASSIGN(std::string bytes, read_all(fd));
  BP_ASSIGN(auto config, bus::parse<v1::RankConfig>(bytes));
  BP_TRY(check(config));
  return config;
}

}  // namespace bp::rt
