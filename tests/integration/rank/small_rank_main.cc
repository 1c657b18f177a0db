// bp-rank with a model that needs no file: the next token is a sum over the new tokens, cut over the tensor
// ranks and passed down the pipeline, so that a wrong group gives a wrong token.
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "engine/base/log.h"
#include "runtime/models/model_runner.h"
#include "runtime/rank/exit_codes.h"
#include "runtime/rank/rank_program.h"

using namespace bp;
using namespace bp::rt;

namespace {

constexpr uint64_t kWeightsBytes = 1 << 20;
constexpr int64_t kOpMs = 5'000;

class SmallRunner final : public ModelRunner {
 public:
  SmallRunner(const v1::RankConfig& c, RunnerComms comms) : config_(c), comms_(comms) {}

  Result<v1::StepResult> execute(const v1::Step& step) override {
    v1::StepResult result;
    result.set_number(step.number());
    for (const auto& s : step.sequences()) {
      std::vector<int64_t> sum{config_.pp_rank() == 0 ? int64_t{s.position()} * config_.tp_rank() : 0};
      for (int i = 0; i < s.tokens_size(); ++i) {
        if (i % config_.plan().tp_size() == config_.tp_rank()) sum[0] += s.tokens(i);
      }
      BP_TRY(comms_.tp->all_reduce_i64(sum, Deadline::in_ms(kOpMs)));
      auto bytes = std::as_writable_bytes(std::span(sum));
      const uint32_t stage = config_.pp_rank(), last = config_.plan().pp_size() - 1;
      if (stage > 0) BP_TRY(comms_.pp->recv(bytes, stage - 1, Deadline::in_ms(kOpMs)));
      sum[0] += 1;
      if (stage < last) BP_TRY(comms_.pp->send(bytes, stage + 1, Deadline::in_ms(kOpMs)));
      auto* token = result.add_tokens();
      token->set_sequence_id(s.sequence_id());
      token->set_token(static_cast<uint32_t>(sum[0]));
    }
    return result;
  }
  void trust_kv() override {}
  std::string numerics_class() const override { return "small"; }
  std::vector<float> TEST_last_logits() const override { return {}; }

 private:
  const v1::RankConfig& config_;
  RunnerComms comms_;
};

class SmallModel final : public RankModel {
 public:
  explicit SmallModel(const v1::RankConfig& c) : config_(c), key_("small:" + c.model_path()) {}
  const std::string& model_key() const override { return key_; }
  std::string numerics_class() const override { return "small"; }
  uint64_t weights_bytes() const override { return kWeightsBytes; }
  uint64_t kv_bytes() const override { return 1 << 16; }
  Result<std::unique_ptr<ModelRunner>> load(RunnerMemory memory, RunnerComms comms,
                                            const std::function<void(uint64_t, uint64_t)>& progress,
                                            bool* reused) override {
    *reused = std::memcmp(memory.weights.data(), key_.data(), key_.size()) == 0;
    if (!*reused) {
      for (size_t i = 4096; i < memory.weights.size(); i += 4096) {
        memory.weights[i] = std::byte(1);
        progress(i, memory.weights.size());
      }
      std::memcpy(memory.weights.data(), key_.data(), key_.size());
    }
    return std::unique_ptr<ModelRunner>(new SmallRunner(config_, comms));
  }

 private:
  const v1::RankConfig& config_;
  std::string key_;
};

}  // namespace

int main() {
  log_init("small-rank", "info");
  RankFds fds;
  auto config = read_rank_config(fds.config);
  if (!config.ok()) ::_exit(kExitConfig);
  SmallModel model(*config);
  ::_exit(run_rank(*config, fds, model, RankTimes{}));
}
