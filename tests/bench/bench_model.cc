#include "tests/bench/bench_model.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <map>

#include "engine/base/files.h"
#include "runtime/tensor/half.h"
#include "runtime/tensor/huge_pages.h"
#include "runtime/tensor/packed.h"

namespace bp::test {
namespace {

using plan::WeightType;

uint16_t to_bf16(float x) {
  const uint32_t u = rt::float_bits(x);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

/// Formula: GGUF's Q8_0, d = largest / 127.
void to_q8_0(const float* x, std::byte* out) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float d = largest / 127.0f;
  const uint16_t half = rt::float_to_f16(d);
  std::memcpy(out, &half, 2);
  for (int i = 0; i < 32; ++i)
    out[2 + i] = static_cast<std::byte>(static_cast<int8_t>(d > 0 ? std::lround(x[i] / d) : 0));
}

class ConvertedSource final : public rt::WeightSource {
 public:
  ConvertedSource(std::unique_ptr<rt::WeightSource> source, WeightType type)
      : source_(std::move(source)), type_(type),
        key_(source_->content_key() + " as " + plan::weight_type_name(type)) {}

  const plan::ModelConfig& config() const override { return source_->config(); }
  void forget_pages() const override { source_->forget_pages(); }
  const std::string& content_key() const override { return key_; }

  Result<plan::TensorInfo> find(const std::string& name) const override {
    BP_ASSIGN(plan::TensorInfo info, source_->find(name));
    if (info.shape.size() != 2 || info.type == type_) return info;
    if (made_.count(info.name) == 0) BP_TRY(make(info));
    info.type = type_;
    info.size_bytes = made_[info.name].size();
    return info;
  }

  std::span<const std::byte> bytes(const plan::TensorInfo& tensor) const override {
    const auto it = made_.find(tensor.name);
    return it == made_.end() ? source_->bytes(tensor) : std::span<const std::byte>(it->second);
  }

 private:
  Status make(const plan::TensorInfo& info) const {
    const auto rows = static_cast<uint32_t>(info.shape[0]), cols = static_cast<uint32_t>(info.shape[1]);
    rt::PackedMatrix m;                       // the loader's own dequantisation, row after row
    m.type = rt::PackType::kF32;
    m.rows = rows;
    m.cols = m.leaf_cols = cols;
    std::vector<std::byte> packed(m.size_bytes());
    const rt::PackSource from{info.type, cols, 0, source_->bytes(info).data(), [](uint32_t r) { return r; }};
    BP_TRY(rt::pack_groups(from, m, 0, 0, m.groups(), packed.data()));
    m.data = packed.data();
    const uint32_t step = plan::block_elements(type_), size = plan::block_bytes(type_);
    std::vector<std::byte> out(size_t(rows) * (cols / step) * size);
    std::vector<float> row(cols);
    std::byte* to = out.data();
    for (uint32_t r = 0; r < rows; ++r) {
      rt::unpack_row(m, r, row);
      for (uint32_t c = 0; c < cols; c += step, to += size) {
        const uint16_t half = to_bf16(row[c]);
        if (type_ == WeightType::kQ8_0) to_q8_0(&row[c], to);
        else std::memcpy(to, &half, 2);
      }
    }
    made_[info.name] = std::move(out);
    return {};
  }

  std::unique_ptr<rt::WeightSource> source_;
  WeightType type_;
  std::string key_;
  mutable std::map<std::string, std::vector<std::byte>> made_;
};

}  // namespace

std::unique_ptr<rt::WeightSource> converted(std::unique_ptr<rt::WeightSource> source, WeightType type) {
  return std::make_unique<ConvertedSource>(std::move(source), type);
}

Result<std::span<std::byte>> BenchModel::segment(const char* name, uint64_t size_bytes) {
  const int fd = ::memfd_create(name, MFD_CLOEXEC);
  if (fd < 0) return errno_error(name, errno);
  void* p = MAP_FAILED;
  if (::ftruncate(fd, static_cast<off_t>(size_bytes)) == 0)
    p = rt::map_aligned(fd, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
  ::close(fd);
  if (p == MAP_FAILED) return errno_error(name, errno);
  return std::span<std::byte>(static_cast<std::byte*>(p), size_bytes);
}

Result<std::unique_ptr<BenchModel>> BenchModel::open(const std::string& path, const std::string& as,
                                                     uint32_t threads, uint32_t kv_blocks, bool exact) {
  auto m = std::unique_ptr<BenchModel>(new BenchModel());
  BP_ASSIGN(m->source_, rt::open_weights(path));
  if (as == "bf16") m->source_ = converted(std::move(m->source_), WeightType::kBF16);
  else if (as == "q8_0") m->source_ = converted(std::move(m->source_), WeightType::kQ8_0);
  BP_ASSIGN(const plan::ShardPlan plan, plan::make_shard_plan(m->source_->config().shape, 1, 1));
  BP_ASSIGN(const uint64_t bytes, rt::weights_segment_bytes(*m->source_, plan, 0, exact));
  BP_ASSIGN(m->weights_, segment("weights", bytes));
  BP_ASSIGN(m->kv_, segment("kv", rt::kv_segment_bytes(plan, 0, kBlockTokens, kv_blocks, exact)));
  const rt::RunnerOptions options{plan, 0, kBlockTokens, kv_blocks, exact, threads};
  BP_ASSIGN(m->runner_, rt::ModelRunner::load(*m->source_, options, {m->weights_, m->kv_}, {}, {}, nullptr));
  return m;
}

BenchModel::~BenchModel() {
  runner_.reset();
  if (!weights_.empty()) ::munmap(weights_.data(), weights_.size());
  if (!kv_.empty()) ::munmap(kv_.data(), kv_.size());
}

void BenchModel::add(v1::Step& step, uint32_t id, uint32_t blocks_each, uint32_t position,
                     const std::vector<uint32_t>& tokens, bool sample) const {
  v1::StepSequence* s = step.add_sequences();
  s->set_sequence_id(id);
  s->set_position(position);
  s->mutable_tokens()->Add(tokens.begin(), tokens.end());
  const auto end = static_cast<uint32_t>(position + tokens.size());
  for (uint32_t b = 0; b * kBlockTokens < end; ++b) s->add_blocks(id * blocks_each + b);
  s->set_sample(sample);
}

}  // namespace bp::test
