// Sampler, thread pool, KV admission, and tiny random models as safetensors: honest and lying.
#include <catch2/catch.hpp>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <fstream>

#include "engine/base/files.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/parallel/thread_pool.h"
#include "runtime/sample/sampler.h"
#include "runtime/tensor/huge_pages.h"
#include "tests/support/model_harness.h"

namespace bp::test {
namespace {

/// A folder with config.json and model.safetensors of a random Llama: 2 layers, hidden 64, 4 heads, 2 KV.
class TinyModel {
 public:
  TinyModel() : path(fmt::format("/tmp/bp-tiny-{}-{}", getpid(), monotonic_ns())) {
    REQUIRE(make_dirs(path).ok());
    std::ofstream(path + "/config.json")
        << R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,"intermediate_size":192,)"
        << R"("num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,"vocab_size":512,)"
        << R"("rms_norm_eps":1e-5,"rope_theta":10000.0,"max_position_embeddings":256,"tie_word_embeddings":false,)"
        << R"("bos_token_id":1,"eos_token_id":2})";
    add("model.embed_tokens", {512, 64});
    add("lm_head", {512, 64});
    add("model.norm", {64});
    for (int l = 0; l < 2; ++l) {
      const std::string p = fmt::format("model.layers.{}.", l);
      add(p + "input_layernorm", {64});
      add(p + "post_attention_layernorm", {64});
      add(p + "self_attn.q_proj", {64, 64});
      add(p + "self_attn.k_proj", {32, 64});
      add(p + "self_attn.v_proj", {32, 64});
      add(p + "self_attn.o_proj", {64, 64});
      add(p + "mlp.gate_proj", {192, 64});
      add(p + "mlp.up_proj", {192, 64});
      add(p + "mlp.down_proj", {64, 192});
    }
    write(header_, data_);
  }
  ~TinyModel() { CHECK(remove_tree(path).ok()); }

  void write(const std::string& header, const std::vector<float>& data) {
    const std::string json = "{" + header + "}";
    const uint64_t size = json.size();
    std::ofstream out(path + "/model.safetensors", std::ios::binary);
    out.write(reinterpret_cast<const char*>(&size), 8);
    out << json;
    out.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size() * 4));
  }

  std::string path;
  std::string header_;
  std::vector<float> data_;

 private:
  void add(const std::string& name, std::vector<uint32_t> shape) {
    size_t n = 1;
    for (const uint32_t d : shape) n *= d;
    const size_t begin = data_.size() * 4;
    for (size_t i = 0; i < n; ++i) {
      state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
      data_.push_back((static_cast<float>(state_ >> 40) / 8388608.0f - 1.0f) * 0.2f);
    }
    const std::string dims = shape.size() == 2 ? fmt::format("{},{}", shape[0], shape[1]) : std::to_string(shape[0]);
    header_ += fmt::format(R"({}"{}.weight":{{"dtype":"F32","shape":[{}],"data_offsets":[{},{}]}})",
                           header_.empty() ? "" : ",", name, dims, begin, data_.size() * 4);
  }
  uint64_t state_ = 42;
};

std::vector<uint32_t> generated(const std::string& path, uint32_t tp, uint32_t pp) {
  auto source = rt::open_weights(path);
  REQUIRE(source.ok());
  HarnessOptions o;
  o.tp = tp;
  o.pp = pp;
  o.kv_blocks = 8;
  auto h = ModelHarness::open(**source, o);
  REQUIRE(h.ok());
  std::vector<TestSequence> s{{1, {5, 9, 300, 511, 7}, 0, 0}};
  REQUIRE(generate(**h, s, 20, 3).ok());
  return s[0].tokens;
}

}  // namespace

TEST_CASE("a tiny model gives the same tokens in every layout") {
  TinyModel model;
  const auto expected = generated(model.path, 1, 1);
  CHECK(generated(model.path, 2, 1) == expected);
  CHECK(generated(model.path, 2, 2) == expected);
}

TEST_CASE("safetensors that lie are refused") {
  TinyModel model;
  const auto refused = [&] {
    const auto source = rt::open_weights(model.path);
    REQUIRE_FALSE(source.ok());
    return source.error().code;
  };
  std::string header = model.header_;
  auto data = model.data_;
  data.resize(data.size() / 2);
  model.write(header, data);
  CHECK(refused() == ErrorCode::kCorruptData);               // cut off
  header.replace(header.find("[512,64]"), 8, "[512,65]");
  model.write(header, model.data_);
  CHECK(refused() == ErrorCode::kCorruptData);               // shape and size disagree
  model.write(R"("x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})", model.data_);
  CHECK(refused() == ErrorCode::kCorruptData);               // not this model
}

TEST_CASE("weights that are no numbers, and sums that overflow, are errors") {
  TinyModel model;
  auto data = model.data_;
  data[100] = std::nanf("");
  model.write(model.header_, data);
  auto source = rt::open_weights(model.path);
  REQUIRE(source.ok());
  auto h = ModelHarness::open(**source, {});
  REQUIRE_FALSE(h.ok());
  CHECK(h.error().code == ErrorCode::kCorruptData);
  data = model.data_;
  for (float& v : data) v *= 1e12f;
  model.write(model.header_, data);
  source = rt::open_weights(model.path);
  REQUIRE(source.ok());
  HarnessOptions o;
  o.tp = 2;
  h = ModelHarness::open(**source, o);
  REQUIRE(h.ok());
  std::vector<TestSequence> s{{1, {5, 9, 300}, 0, 0}};
  const Status done = generate(**h, s, 1, 8);
  REQUIRE_FALSE(done.ok());
  CHECK(done.error().code == ErrorCode::kCorruptData);
}

TEST_CASE("a filled weights segment is reused, a half filled or foreign one is not") {
  TinyModel model;
  auto source = rt::open_weights(model.path);
  REQUIRE(source.ok());
  auto plan = plan::make_shard_plan((*source)->config().shape, 1, 1);
  REQUIRE(plan.ok());
  std::vector<std::byte> weights(*rt::weights_segment_bytes(**source, *plan, 0, false));
  std::vector<std::byte> kv(rt::kv_segment_bytes(*plan, 0, 16, 4, false));
  const auto load = [&] {
    bool reused = true;
    REQUIRE(rt::ModelRunner::load(**source, {*plan, 0, 16, 4, false, 1}, {weights, kv}, {}, {}, &reused).ok());
    return reused;
  };
  CHECK_FALSE(load());
  CHECK(load());
  weights[12] = std::byte{0};          // the complete flag
  CHECK_FALSE(load());
  model.write(model.header_, model.data_);
  source = rt::open_weights(model.path);   // another version of the file
  REQUIRE(source.ok());
  CHECK_FALSE(load());
  const std::span<std::byte> small(weights.data(), weights.size() - 1);
  const auto refused = rt::ModelRunner::load(**source, {*plan, 0, 16, 4, false, 1}, {small, kv}, {}, {}, nullptr);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::kDoesNotFit);
}

TEST_CASE("memory files lie on huge pages and keep what they hold") {
  constexpr size_t kBytes = 2 * rt::kHugePageBytes + 5000;
  const int fd = memfd_create("test", MFD_CLOEXEC);
  REQUIRE((fd >= 0 && ftruncate(fd, kBytes) == 0));
  void* p = rt::map_aligned(fd, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED);
  REQUIRE(p != MAP_FAILED);
  CHECK(reinterpret_cast<uintptr_t>(p) % rt::kHugePageBytes == 0);
  const std::span<std::byte> memory(static_cast<std::byte*>(p), kBytes);
  for (size_t i = 0; i < kBytes; i += 1000) memory[i] = static_cast<std::byte>(i / 1000);
  WARN("huge pages: " << rt::use_huge_pages(memory));
  for (size_t i = 0; i < kBytes; i += 1000) REQUIRE(memory[i] == static_cast<std::byte>(i / 1000));
  CHECK_FALSE(rt::use_huge_pages(memory.subspan(1)));
  CHECK(rt::map_aligned(-1, kBytes, PROT_READ, MAP_SHARED) == MAP_FAILED);
  munmap(p, kBytes);
  close(fd);
}

TEST_CASE("steps that say nonsense are refused") {
  TinyModel model;
  auto source = rt::open_weights(model.path);
  REQUIRE(source.ok());
  HarnessOptions o;
  o.kv_blocks = 4;
  auto h = ModelHarness::open(**source, o);
  REQUIRE(h.ok());
  const auto code = [&](uint32_t position, std::vector<uint32_t> tokens, std::vector<uint32_t> blocks) {
    v1::Step step;
    v1::StepSequence* s = step.add_sequences();
    s->set_position(position);
    for (const uint32_t t : tokens) s->add_tokens(t);
    for (const uint32_t b : blocks) s->add_blocks(b);
    const auto r = (*h)->step(step);
    return r.ok() ? "ok" : std::string(error_name(r.error().code)) + " " + r.error().message;
  };
  using Catch::Contains;
  CHECK_THAT(code(0, {}, {0}), Contains("tokens"));
  CHECK_THAT(code(0, {512}, {0}), Contains("found 512, expected less than 512"));
  CHECK_THAT(code(0, {1}, {}), Contains("blocks"));
  CHECK_THAT(code(0, {1}, {4}), Contains("blocks"));
  CHECK_THAT(code(3, {1}, {0}), Contains("position"));
  CHECK_THAT(code(4294967295u, {1}, {0}), Contains("position"));
  CHECK(code(0, {1, 2}, {0}) == "ok");
  CHECK(code(2, {3}, {0}) == "ok");
  CHECK_THAT(code(4, {3}, {0}), Contains("position"));
}

TEST_CASE("sampling: greedy, filters, repeatable draws that follow the distribution") {
  std::vector<float> logits(1000, -5.0f);
  logits[7] = 2.0f;
  logits[3] = 2.0f;
  logits[900] = 1.0f;
  const auto draw = [&](const v1::Sampling& s, uint32_t position) {
    const auto t = rt::sample_token(rt::best_ops(), logits, s, position);
    REQUIRE(t.ok());
    return t->token();
  };
  v1::Sampling s;
  CHECK(draw(s, 0) == 3);              // the lower id of two equal ones
  s.set_temperature(1);
  s.set_seed(11);
  s.set_top_k(3);
  std::map<uint32_t, int> seen;
  for (uint32_t p = 0; p < 3000; ++p) {
    const uint32_t t = draw(s, p);
    CHECK(t == draw(s, p));
    ++seen[t];
  }
  CHECK(seen.size() == 3);
  const double share = 1 / (2 + std::exp(-1.0));
  CHECK(seen[3] == Approx(3000 * share).margin(120));
  CHECK(seen[7] == Approx(3000 * share).margin(120));
  s.set_top_k(0);
  s.set_top_p(0.5f);
  for (uint32_t p = 0; p < 200; ++p) CHECK((draw(s, p) == 3 || draw(s, p) == 7));
  s.set_top_p(1);
  std::map<uint32_t, int> all;
  for (uint32_t p = 0; p < 2000; ++p) ++all[draw(s, p)];
  CHECK(all.size() > 50);              // the tail is drawn too
  s.set_logprobs(2);
  const auto t = rt::sample_token(rt::best_ops(), logits, s, 1);
  REQUIRE((t.ok() && t->top_size() == 2));
  CHECK((t->top(0).token() == 3 && t->top(1).token() == 7));
  logits[5] = std::nanf("");
  CHECK_FALSE(rt::sample_token(rt::best_ops(), logits, s, 1).ok());
  logits[5] = 0;
  s.set_top_p(1.5f);
  CHECK_FALSE(rt::sample_token(rt::best_ops(), logits, s, 1).ok());
}

TEST_CASE("the pool runs every item once, also with more threads than cores") {
  for (const uint32_t threads : {1u, 2u, 9u}) {
    rt::ThreadPool pool(threads);
    for (uint32_t n = 0; n < 300; ++n) {
      std::vector<std::atomic<int>> hits(n);
      pool.run(n, [&](uint32_t i, uint32_t thread) {
        if (thread < pool.threads()) hits[i].fetch_add(1);
      });
      for (const auto& h : hits) REQUIRE(h.load() == 1);
    }
  }
}

}  // namespace bp::test
