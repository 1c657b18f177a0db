// Admission: who has had how much (fair share), how much work waits, and how fast work is done. The
// bounds of the queue and the order among tenants follow from it. Tokens are the unit of work, computed
// prompt tokens and generated ones alike. Pure; one thread.
#pragma once
#include <cstdint>
#include <map>
#include <string>

namespace bp::rt {

class Admission {
 public:
  explicit Admission(uint64_t max_waiting_tokens) : max_waiting_tokens_(max_waiting_tokens) {}

  /// What a request will cost: its prompt, and as many new tokens as requests usually take.
  uint64_t cost(uint64_t prompt_tokens, uint32_t max_new_tokens) const;
  /// Whether so much more may wait for `tenant`; when not, retry_after_ms() is about this request. A
  /// single request always may when nothing waits. No tenant has more than 3/4 of the queue.
  bool fits(const std::string& tenant, uint64_t cost);
  /// Until so much work is done nobody else should come.
  void refuse(uint64_t tokens_too_many);
  void arrived(const std::string& tenant);
  void ended(const std::string& tenant);
  void waits(const std::string& tenant, uint64_t cost);
  void waits_no_more(const std::string& tenant, uint64_t cost);

  /// `tenant` is served `tokens` tokens of a step.
  void served(const std::string& tenant, uint64_t tokens);
  /// What the tenant has had, for ordering: the least goes first. One that was away comes back where the
  /// last of the others is, so that nobody saves up, and with a bounded debt.
  uint64_t had(const std::string& tenant) const;

  /// Some tokens were computed in so much time in which there was work.
  void measured(uint64_t tokens, int64_t busy_ns);
  void finished(uint32_t new_tokens);
  double tokens_per_s() const { return busy_s_ > 0 ? done_tokens_ / busy_s_ : 0; }
  int64_t retry_after_ms() const { return retry_after_ms_; }
  uint64_t waiting_tokens() const { return waiting_tokens_; }

 private:
  struct Tenant {
    uint64_t had = 0;
    uint64_t waiting_tokens = 0;
    uint32_t live = 0;
  };
  uint64_t max_waiting_tokens_;
  uint64_t waiting_tokens_ = 0;
  std::map<std::string, Tenant> tenants_;
  double done_tokens_ = 0, busy_s_ = 0;  // of the last seconds of work, older ones fading
  double usual_new_tokens_ = 128;
  int64_t retry_after_ms_ = 1000;
};

}  // namespace bp::rt
