#include "runtime/head/generation.h"

#include <random>

#include "runtime/head/text_stream.h"

namespace bp::rt {

uint64_t random_seed() {
  static thread_local std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

Result<std::vector<uint64_t>> start_generation(EngineLoop& engine, const Tokenizer& tokenizer,
                                               std::vector<ChoiceRequest> choices,
                                               std::function<void(const ChoiceDelta&)> sink) {
  auto shared_sink = std::make_shared<std::function<void(const ChoiceDelta&)>>(std::move(sink));
  std::vector<EngineLoop::Submission> submissions;
  for (size_t i = 0; i < choices.size(); ++i) {
    ChoiceRequest& c = choices[i];
    EngineLoop::Submission s;
    s.request.prompt = std::move(c.prompt);
    s.request.max_new_tokens = c.max_tokens;
    s.request.sampling = c.sampling;
    s.request.priority = c.priority;
    s.request.tenant = c.tenant;
    if (c.timeout_ms > 0) s.request.deadline_ns = Deadline::in_ms(c.timeout_ms).ns();
    if (c.same_prompt_as) s.request.same_prompt_as = *c.same_prompt_as + 1;
    if (!c.ignore_eos) s.request.stop_tokens = tokenizer.eos_tokens();
    auto text = std::make_shared<TextStream>(tokenizer, std::move(c.stops));
    s.sink = [i, text, shared_sink](const SequenceEvent& event) {
      ChoiceDelta delta;
      delta.choice = i;
      delta.token = event.token;
      delta.last = event.last;
      delta.finish_reason = event.finish_reason;
      delta.error = event.error;
      delta.retry_after_ms = event.retry_after_ms;
      bool stop_token = event.last && event.finish_reason == "stop";  // not part of the text
      if (event.token && !stop_token) delta.text = text->push(event.token->token());
      if (event.last && !text->stopped()) delta.text += text->finish();
      if (text->stopped()) {
        delta.last = true;
        delta.finish_reason = "stop";
      }
      (*shared_sink)(delta);
      return !text->stopped();
    };
    submissions.push_back(std::move(s));
  }
  return engine.submit(std::move(submissions));
}

}  // namespace bp::rt
