// LlamaLayer: one decoder layer of this rank's slice: attention and gated MLP, each ending in a sum over
// the tensor group. Formulas: LlamaDecoderLayer of transformers.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "bp/v1/rank.pb.h"
#include "engine/base/result.h"
#include "engine/plan/model_header.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/layers/step_profile.h"
#include "runtime/layers/workspace.h"
#include "runtime/ops/ops.h"
#include "runtime/parallel/tensor_group.h"
#include "runtime/parallel/thread_pool.h"

namespace bp::rt {

/// Where a layer's weights lie in the segment. Not owned.
struct LayerWeights {
  const float* attn_norm = nullptr;   // [hidden]
  const float* ffn_norm = nullptr;
  PackedMatrix q, k, v;               // [heads of this rank * head_dim, hidden]
  PackedMatrix o;                     // [hidden, q heads * head_dim], a leaf per head
  PackedMatrix gate, up;              // [ffn columns, hidden]
  PackedMatrix down;                  // [hidden, ffn columns], a leaf per 128 columns
};

/// What all layers of a step share.
struct StepContext {
  const v1::Step* step = nullptr;
  std::vector<uint32_t> positions;    // by token of the step
  std::vector<uint32_t> sequence_of;  // by token
  std::vector<uint32_t> first_token;  // by sequence
  uint32_t tokens() const { return static_cast<uint32_t>(positions.size()); }
};

class LlamaLayer {
 public:
  struct Shared {                     // of a runner; outlives its layers
    const Ops* ops = nullptr;
    ThreadPool* pool = nullptr;
    KvCache* kv = nullptr;
    TensorGroup* group = nullptr;
    Workspace* work = nullptr;
    StepProfile* profile = nullptr;   // may stay null
    plan::ModelConfig config;
    plan::RankShard shard;
  };
  /// `index`: within this rank.
  LlamaLayer(Shared* shared, uint32_t index, const LayerWeights& weights);
  /// Adds the layer's two outputs to work->hidden. kCorruptData when a sum is not a number; errors of the
  /// communicator.
  Status run(const StepContext& context, Deadline deadline);

 private:
  struct AttentionItem { uint32_t sequence, kv_head, head_begin, head_end, token_begin, token_end; };

  void project_qkv(const StepContext& c);
  void rotate_and_store_all(const StepContext& c);
  void rotate_and_store(const StepContext& c, uint32_t begin, uint32_t end);
  void attention(const StepContext& c, const Activations& out);
  void attend_item(const StepContext& c, const Activations& out, const AttentionItem& item, uint32_t thread);
  std::vector<AttentionItem> attention_items(const StepContext& c) const;
  Status add_cut_sum(StepOp op, const PackedMatrix& w, const Activations& x, Deadline deadline);
  void cut_sums(StepOp op, const PackedMatrix& w, const Activations& x);
  void gated(const StepContext& c, const Activations& gate);
  Status mlp(const StepContext& c, Deadline deadline);

  Shared* s_;
  uint32_t index_;
  LayerWeights w_;
};

/// One matrix of a set that reads the same activations.
struct MatmulJob {
  const PackedMatrix* weights;
  float* out;        // [tokens, ld]
  size_t ld;
};
/// Computes all jobs, their rows dealt to the pool's threads.
void run_matmuls(const Ops& ops, ThreadPool& pool, std::span<const MatmulJob> jobs, const Activations& x);
/// out.f = rms_norm(x) * weight for every token, and its blocks when out.q is set.
void normalise(const Ops& ops, ThreadPool& pool, const float* x, const float* weight, float eps,
               const Activations& out);
/// Fills out.q and so on from out.f, tokens dealt to the threads.
void quantise_all(const Ops& ops, ThreadPool& pool, const Activations& x);

}  // namespace bp::rt
