#include "engine/plan/shard_plan.h"

#include <catch2/catch.hpp>

using namespace bp;
using namespace bp::plan;

namespace {

const ModelShape kSmol{30, 576, 1536, 9, 3, 64, 49152, true};

/// Every element belongs to exactly one tensor rank, in order, and no share is empty.
void check_covers(const ShardPlan& plan, Interval RankShard::*part, uint32_t count) {
  for (uint32_t pp = 0; pp < plan.pp_size; ++pp) {
    uint32_t at = 0;
    for (uint32_t tp = 0; tp < plan.tp_size; ++tp) {
      const Interval i = plan.ranks[pp * plan.tp_size + tp].*part;
      CHECK(i.begin == at);
      CHECK(i.end > i.begin);
      at = i.end;
    }
    CHECK(at == count);
  }
}

}  // namespace

TEST_CASE("nine heads over two ranks are 5 + 4 and the cut KV head is held by both") {
  auto plan = make_shard_plan(kSmol, 2, 2);
  REQUIRE(plan.ok());
  REQUIRE(plan->ranks.size() == 4);
  CHECK(plan->ranks[0].q_heads == Interval{0, 5});
  CHECK(plan->ranks[1].q_heads == Interval{5, 9});
  CHECK(plan->ranks[0].kv_heads == Interval{0, 2});
  CHECK(plan->ranks[1].kv_heads == Interval{1, 3});
  CHECK(plan->ranks[0].ffn == Interval{0, 768});
  CHECK(plan->ranks[3].rank == 3);
  CHECK(plan->ranks[3].pp_rank == 1);
  CHECK(plan->ranks[0].has_embedding);
  CHECK_FALSE(plan->ranks[0].has_lm_head);
  CHECK(plan->ranks[2].has_lm_head);
}

TEST_CASE("the last pipeline stage gets fewer layers because it computes lm_head") {
  auto plan = make_shard_plan(kSmol, 1, 2);
  REQUIRE(plan.ok());
  // lm_head costs as much as eight layers: 19 against 11 + 8.
  CHECK(plan->ranks[0].layers == Interval{0, 19});
  CHECK(plan->ranks[1].layers == Interval{19, 30});
}

TEST_CASE("every layout covers the model without gap or overlap") {
  const ModelShape shapes[] = {
      kSmol, {32, 4096, 14336, 32, 8, 128, 128256, false}, {2, 64, 300, 4, 2, 16, 1100, true}};
  for (const ModelShape& m : shapes) {
    for (uint32_t tp = 1; tp <= 9; ++tp) {
      for (uint32_t pp = 1; pp <= 8; ++pp) {
        auto plan = make_shard_plan(m, tp, pp);
        if (!plan.ok()) {
          CHECK(plan.error().code == ErrorCode::kDoesNotFit);
          continue;
        }
        check_covers(*plan, &RankShard::q_heads, m.heads);
        check_covers(*plan, &RankShard::ffn, m.intermediate);
        check_covers(*plan, &RankShard::vocab, m.vocab);
        uint32_t at = 0;
        for (uint32_t p = 0; p < pp; ++p) {
          CHECK(plan->ranks[p * tp].layers.begin == at);
          CHECK(plan->ranks[p * tp].layers.size() > 0);
          at = plan->ranks[p * tp].layers.end;
        }
        CHECK(at == m.layers);
        for (const RankShard& r : plan->ranks) {
          CHECK(r.ffn.begin % kDownLeafColumns == 0);
          CHECK(r.vocab.begin % kVocabChunkRows == 0);
          const uint32_t group = m.heads / m.kv_heads;
          CHECK(r.kv_heads.begin == r.q_heads.begin / group);
          CHECK(r.kv_heads.end == (r.q_heads.end - 1) / group + 1);
        }
      }
    }
  }
}

TEST_CASE("layouts that do not fit are refused with the largest that does") {
  auto too_wide = make_shard_plan(kSmol, 10, 1);
  REQUIRE_FALSE(too_wide.ok());
  CHECK(too_wide.error().code == ErrorCode::kDoesNotFit);
  CHECK(too_wide.error().message.find("at most TP 9") != std::string::npos);
  CHECK(make_shard_plan(kSmol, 1, 31).error().code == ErrorCode::kDoesNotFit);
  CHECK(make_shard_plan(kSmol, 0, 1).error().code == ErrorCode::kInvalidArgument);
  ModelShape odd = kSmol;
  odd.kv_heads = 2;
  CHECK(make_shard_plan(odd, 1, 1).error().code == ErrorCode::kInvalidArgument);
  odd = kSmol;
  odd.layers = 0;
  CHECK(make_shard_plan(odd, 1, 1).error().code == ErrorCode::kInvalidArgument);
}
