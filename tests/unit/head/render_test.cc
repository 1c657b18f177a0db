// Chunks are written by hand: what comes out must be what a JSON library would write.
#include "runtime/head/api_render.h"

#include <boost/json.hpp>
#include <catch2/catch.hpp>

namespace bp::rt {

namespace json = boost::json;

TEST_CASE("text in JSON is escaped as the library does it", "[render]") {
  std::string all;
  for (int c = 0; c < 128; ++c) all += static_cast<char>(c);
  all += "caf\xc3\xa9 \xf0\x9f\x98\x80 \xe2\x80\xa8";
  std::string out = "\"";
  append_json_text(out, all);
  out += '"';
  CHECK(json::parse(out).as_string() == all);
  CHECK(out == json::serialize(json::value(all)));
}

TEST_CASE("a chunk has the fields of its endpoint, in valid JSON", "[render]") {
  for (bool chat : {true, false}) {
    for (bool last : {true, false}) {
      ApiRequest request;
      request.chat = chat;
      request.include_usage = true;
      request.return_token_ids = true;
      AnswerContext context;
      context.request = &request;
      context.id = "x-1";
      context.created = 7;
      context.model = "a \"model\"";
      context.prompts = {{1, 2}};
      ChoiceState choice;
      choice.index = 3;
      if (last) choice.finish_reason = "stop";
      v1::SampledToken token;
      token.set_token(42);
      const std::string text = "line\n\"quoted\"";
      for (int i = 0; i < 2; ++i) {  // the second uses what the first prepared
        const json::value v = json::parse(render_chunk(context, choice, text, {token}, i == 0));
        CHECK(v.at("id").as_string() == "x-1");
        CHECK(v.at("object").as_string() == (chat ? "chat.completion.chunk" : "text_completion"));
        CHECK(v.at("created") == 7);
        CHECK(v.at("model").as_string() == context.model);
        CHECK(v.at("usage").is_null());
        const json::object& c = v.at("choices").at(0).as_object();
        CHECK(c.at("index") == 3);
        CHECK((chat ? c.at("delta").at("content") : c.at("text")).as_string() == text);
        CHECK(c.at("logprobs").is_null());
        CHECK(c.at("finish_reason") == (last ? json::value("stop") : json::value(nullptr)));
        CHECK(c.at("token_ids") == json::array{42});
        CHECK(c.contains("prompt_token_ids") == (!chat && i == 0));
      }
      const json::value end = json::parse(render_chunk(context, choice, "", {}, false));
      if (chat) CHECK(end.at("choices").at(0).at("delta").as_object().contains("content") == !last);
    }
  }
}

}  // namespace bp::rt
