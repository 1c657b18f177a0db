// BenchModel: a whole model in one rank, in memfd segments as a deployment has them, and its weights in
// another type than its file's: BF16 and Q8_0 made from whatever the file holds.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "runtime/models/model_runner.h"

namespace bp::test {

/// `source` with every matrix as `type` (kBF16 or kQ8_0). Keeps `source`.
std::unique_ptr<rt::WeightSource> converted(std::unique_ptr<rt::WeightSource> source, plan::WeightType type);

class BenchModel {
 public:
  static constexpr uint32_t kBlockTokens = 16;
  /// `as`: "file", "bf16", "q8_0". `kv_blocks`: of kBlockTokens.
  static Result<std::unique_ptr<BenchModel>> open(const std::string& path, const std::string& as, uint32_t threads,
                                                  uint32_t kv_blocks, bool exact);
  ~BenchModel();

  /// Adds `tokens` at `position` of a sequence that owns blocks [id * blocks_each, ...).
  void add(v1::Step& step, uint32_t id, uint32_t blocks_each, uint32_t position,
           const std::vector<uint32_t>& tokens, bool sample) const;

  rt::ModelRunner& runner() { return *runner_; }
  const rt::WeightSource& source() const { return *source_; }
  std::span<const std::byte> weights() const { return weights_; }

 private:
  BenchModel() = default;
  static Result<std::span<std::byte>> segment(const char* name, uint64_t size_bytes);

  std::unique_ptr<rt::WeightSource> source_;
  std::span<std::byte> weights_, kv_;
  std::unique_ptr<rt::ModelRunner> runner_;
};

}  // namespace bp::test
