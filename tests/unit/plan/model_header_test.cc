#include "engine/plan/model_header.h"

#include <catch2/catch.hpp>

#include "engine/plan/llama_tensors.h"
#include "tests/unit/plan/model_bytes.h"

using namespace bp;
using namespace bp::plan;
using namespace bp::plan::test;

namespace {

Result<GgufHeader> parse(const std::string& bytes) {
  return parse_gguf(read_at_memory(bytes), bytes.size());
}
Result<ModelConfig> config(const GgufFile& f) {
  auto h = parse(f.bytes());
  if (!h.ok()) return std::move(h).error();
  return config_from_gguf(*h);
}
void check_fails(const std::string& bytes, ErrorCode code, const std::string& text) {
  auto h = parse(bytes);
  REQUIRE_FALSE(h.ok());
  INFO(h.error().message);
  CHECK(h.error().code == code);
  CHECK(h.error().message.find(text) != std::string::npos);
}
void check_safetensors_fails(const std::string& bytes, const std::string& text) {
  auto r = parse_safetensors(read_at_memory(bytes), bytes.size());
  REQUIRE_FALSE(r.ok());
  INFO(r.error().message);
  CHECK(r.error().message.find(text) != std::string::npos);
}

}  // namespace

TEST_CASE("a GGUF header gives config and tensor places") {
  auto f = tiny_gguf();
  const std::string bytes = f.bytes();
  auto h = parse(bytes);
  REQUIRE(h.ok());
  CHECK(h->tensors.size() == 20);
  CHECK(h->data_start % 32 == 0);
  CHECK(h->tensors[0].shape == std::vector<uint64_t>{96, 32});
  CHECK(h->tensors[0].offset == h->data_start);
  auto c = config_from_gguf(*h);
  REQUIRE(c.ok());
  CHECK(c->shape.layers == 2);
  CHECK(c->shape.head_dim == 8);
  CHECK(c->shape.tied_embedding);
  CHECK(c->rope_interleaved);
  CHECK(c->bos_token == 1);
  CHECK(c->eos_tokens == std::vector<uint32_t>{2});
}

TEST_CASE("a GGUF file that ends early is refused at every length") {
  const std::string bytes = tiny_gguf().bytes();
  for (size_t n = 0; n < bytes.size(); n += n < 2000 ? 1 : 997) {
    auto h = parse(bytes.substr(0, n));
    CHECK_FALSE(h.ok());
  }
}

TEST_CASE("a GGUF file that lies is refused with the place") {
  auto f = tiny_gguf();
  SECTION("magic") {
    f.magic = 1;
    check_fails(f.bytes(), ErrorCode::kCorruptData, "magic");
  }
  SECTION("version") {
    f.version = 1;
    check_fails(f.bytes(), ErrorCode::kUnsupported, "version: found 1");
  }
  SECTION("tensor count") {
    f.tensor_count = int64_t{1} << 60;
    check_fails(f.bytes(), ErrorCode::kCorruptData, "tensor count");
  }
  SECTION("metadata count") {
    f.entry_count = int64_t{1} << 60;
    check_fails(f.bytes(), ErrorCode::kCorruptData, "metadata count");
  }
  SECTION("string length") {
    f.entries.insert(f.entries.begin(), le<uint64_t>(UINT64_MAX) + "x");
    check_fails(f.bytes(), ErrorCode::kCorruptData, "key 0");
  }
  SECTION("array length") {
    f.entries.push_back(gguf_text("a") + le<uint32_t>(9) + le<uint32_t>(4) +
                        le<uint64_t>(UINT64_MAX));
    check_fails(f.bytes(), ErrorCode::kCorruptData,
                "key a: found an array of 18446744073709551615");
  }
  SECTION("nested array") {
    f.entries.push_back(gguf_text("a") + le<uint32_t>(9) + le<uint32_t>(9) + le<uint64_t>(1));
    check_fails(f.bytes(), ErrorCode::kCorruptData, "an array of value type 9");
  }
  SECTION("key twice") {
    f.entries.push_back(f.entries[1]);
    check_fails(f.bytes(), ErrorCode::kCorruptData, "llama.block_count: found it twice");
  }
  SECTION("dimensions overflow") {
    f.tensors[0].ne = {uint64_t{1} << 33, uint64_t{1} << 33};
    check_fails(f.bytes(), ErrorCode::kCorruptData, "overflows");
  }
  SECTION("zero dimension") {
    f.tensors[0].ne = {32, 0};
    check_fails(f.bytes(), ErrorCode::kCorruptData, "size 0");
  }
  SECTION("too many dimensions") {
    f.tensors[0].ne = {1, 1, 1, 1, 1};
    check_fails(f.bytes(), ErrorCode::kCorruptData, "5 dimensions");
  }
  SECTION("offset beyond the file") {
    f.tensors[1].offset = uint64_t{1} << 40;
    check_fails(f.bytes(), ErrorCode::kCorruptData, "output_norm.weight");
  }
  SECTION("offset that wraps") {
    f.tensors[1].offset = UINT64_MAX - 31;
    check_fails(f.bytes(), ErrorCode::kCorruptData, "output_norm.weight");
  }
  SECTION("offset not aligned") {
    f.tensors[1].offset += 4;
    check_fails(f.bytes(), ErrorCode::kCorruptData, "a multiple of 32");
  }
  SECTION("overlap") {
    f.tensors[1].offset = f.tensors[0].offset + 32;
    check_fails(f.bytes(), ErrorCode::kCorruptData, "expected at least");
  }
  SECTION("name twice") {
    f.tensors[1].name = f.tensors[0].name;
    check_fails(f.bytes(), ErrorCode::kCorruptData, "found twice");
  }
  SECTION("row not whole blocks") {
    f.tensors[0].ne = {48, 64};
    f.tensors[0].type = 8;
    check_fails(f.bytes(), ErrorCode::kCorruptData, "multiple of 32");
  }
  SECTION("type that is not computed") {
    f.tensors[0].type = 12;
    check_fails(f.bytes(), ErrorCode::kUnsupported, "Q4_K");
  }
  SECTION("alignment") {
    f.entries.push_back(kv_u32("general.alignment", 33));
    check_fails(f.bytes(), ErrorCode::kCorruptData, "general.alignment");
  }
}

TEST_CASE("a config that contradicts the tensors is refused") {
  auto f = tiny_gguf();
  SECTION("wrong hidden size") { f.entries[3] = kv_u32("llama.embedding_length", 64); }
  SECTION("more layers than there are") { f.entries[1] = kv_u32("llama.block_count", 3); }
  SECTION("fewer layers than there are") { f.entries[1] = kv_u32("llama.block_count", 1); }
  SECTION("KV heads") { f.entries[6] = kv_u32("llama.attention.head_count_kv", 3); }
  SECTION("zero heads") { f.entries[5] = kv_u32("llama.attention.head_count", 0); }
  SECTION("other architecture") { f.entries[0] = kv_text("general.architecture", "mamba"); }
  SECTION("eos outside the vocabulary") {
    f.entries[11] = kv_u32("tokenizer.ggml.eos_token_id", 96);
  }
  SECTION("bias") {
    f.tensors.push_back({"blk.0.attn_q.bias", {32}, 0, f.data_bytes});
    f.data_bytes += 128;
  }
  auto c = config(f);
  REQUIRE_FALSE(c.ok());
  CHECK(c.error().message.find("found") != std::string::npos);
}

TEST_CASE("a safetensors header gives tensor places") {
  const std::string bytes = safetensors(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[16,28]},)"
      R"("a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})",
      28);
  auto t = parse_safetensors(read_at_memory(bytes), bytes.size());
  REQUIRE(t.ok());
  REQUIRE(t->size() == 2);
  CHECK((*t)[0].name == "b");
  CHECK((*t)[0].size_bytes == 12);
  CHECK((*t)[0].offset == bytes.size() - 12);
}

TEST_CASE("a safetensors file that lies is refused") {
  auto one = [](const std::string& body, size_t data) {
    return safetensors("{\"a\":" + body + "}", data);
  };
  check_safetensors_fails("", "found 0 bytes");
  check_safetensors_fails("123456789", "at least 10");
  check_safetensors_fails(le<uint64_t>(UINT64_MAX) + "{}", "header length");
  check_safetensors_fails(safetensors("[]", 0), "no object");
  check_safetensors_fails(safetensors("{ ", 0), "line 1");
  check_safetensors_fails(one(R"({"dtype":"F32","shape":[4],"data_offsets":[0,12]})", 16),
                          "16 bytes within");
  check_safetensors_fails(one(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})", 12),
                          "within the 12");
  check_safetensors_fails(one(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})", 20),
                          "where the last tensor ends");
  check_safetensors_fails(one(R"({"dtype":"F32","shape":[4],"data_offsets":[4,20]})", 20),
                          "exactly");
  check_safetensors_fails(one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})", 4),
                          "unsigned");
  check_safetensors_fails(
      one(R"({"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]})", 4),
      "overflows");
  check_safetensors_fails(one(R"({"dtype":"I64","shape":[1],"data_offsets":[0,8]})", 8),
                          "dtype I64");
  check_safetensors_fails(safetensors(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                      R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                                      4),
                          "twice");
  check_safetensors_fails(safetensors(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                      R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                                      12),
                          "exactly");
}

TEST_CASE("config.json of Llama 3.1") {
  const char* text =
      R"({"architectures":["LlamaForCausalLM"],"hidden_size":4096,"intermediate_size":14336,
    "num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256,"rms_norm_eps":1e-05,
    "rope_theta":500000.0,"rope_scaling":{"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
    "original_max_position_embeddings":8192,"rope_type":"llama3"},"max_position_embeddings":131072,
    "bos_token_id":128000,"eos_token_id":[128001,128009],"tie_word_embeddings":false})";
  auto c = config_from_json(text, R"({"eos_token_id":[128001,128008]})");
  REQUIRE(c.ok());
  CHECK(c->shape.head_dim == 128);
  CHECK(c->rope_scaling.type == "llama3");
  CHECK(c->rope_scaling.factor == 8.0);
  CHECK_FALSE(c->rope_interleaved);
  CHECK(c->eos_tokens == std::vector<uint32_t>{128001, 128009, 128008});
  CHECK_FALSE(config_from_json(R"({"architectures":["GPT2LMHeadModel"]})", "").ok());
  CHECK_FALSE(config_from_json("", "").ok());
}

TEST_CASE("names of shard files are plain") {
  auto ok = safetensors_index_files(
      R"({"weight_map":{"a":"m-2.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"}})");
  REQUIRE(ok.ok());
  CHECK(*ok == std::vector<std::string>{"m-1.safetensors", "m-2.safetensors"});
  CHECK_FALSE(safetensors_index_files(R"({"weight_map":{"a":"../x"}})").ok());
  CHECK_FALSE(safetensors_index_files(R"({})").ok());
}
