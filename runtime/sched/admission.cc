#include "runtime/sched/admission.h"

#include <algorithm>
#include <cmath>

namespace bp::rt {
namespace {

constexpr double kWindowS = 10;           // of work, over which the rate is measured
constexpr double kUsualShare = 1.0 / 16;  // weight of one request in what requests usually take
constexpr size_t kTenantsKept = 1024;     // idle ones above this are forgotten
constexpr uint64_t kDebtMax = 16'384;     // tokens that a tenant is behind at most when it comes back
constexpr int64_t kRetryMaxMs = 600'000;

}  // namespace

uint64_t Admission::cost(uint64_t prompt_tokens, uint32_t max_new_tokens) const {
  return prompt_tokens + std::min<uint64_t>(max_new_tokens, static_cast<uint64_t>(usual_new_tokens_ + 1));
}

bool Admission::fits(const std::string& tenant, uint64_t cost) {
  const auto over = [cost](uint64_t waiting, uint64_t most) {
    return waiting > 0 && waiting + cost > most ? waiting + cost - most : 0;
  };
  const auto known = tenants_.find(tenant);
  const uint64_t own = known == tenants_.end() ? 0 : known->second.waiting_tokens;
  const uint64_t too_many =
      std::max(over(waiting_tokens_, max_waiting_tokens_), over(own, max_waiting_tokens_ / 4 * 3));
  if (too_many > 0) refuse(too_many);
  return too_many == 0;
}

void Admission::refuse(uint64_t tokens_too_many) {
  const double rate = tokens_per_s();
  const double seconds = rate > 0 ? static_cast<double>(tokens_too_many) / rate : 1;
  retry_after_ms_ = std::clamp<int64_t>(std::llround(seconds * 1000), 1, kRetryMaxMs);
}

void Admission::arrived(const std::string& tenant) {
  if (tenants_.size() > kTenantsKept) {
    for (auto it = tenants_.begin(); it != tenants_.end();)
      it = it->second.live == 0 ? tenants_.erase(it) : std::next(it);
  }
  uint64_t level = UINT64_MAX;
  for (const auto& [name, t] : tenants_)
    if (t.live > 0) level = std::min(level, t.had);
  if (level == UINT64_MAX) level = 0;
  Tenant& t = tenants_[tenant];
  if (t.live++ == 0) t.had = std::clamp(t.had, level, level + kDebtMax);
}

void Admission::ended(const std::string& tenant) { --tenants_[tenant].live; }

void Admission::waits(const std::string& tenant, uint64_t cost) {
  waiting_tokens_ += cost;
  tenants_[tenant].waiting_tokens += cost;
}

void Admission::waits_no_more(const std::string& tenant, uint64_t cost) {
  waiting_tokens_ -= cost;
  tenants_[tenant].waiting_tokens -= cost;
}

void Admission::served(const std::string& tenant, uint64_t tokens) {
  tenants_[tenant].had += tokens;
}

uint64_t Admission::had(const std::string& tenant) const {
  const auto t = tenants_.find(tenant);
  return t == tenants_.end() ? 0 : t->second.had;
}

void Admission::measured(uint64_t tokens, int64_t busy_ns) {
  const double s = static_cast<double>(std::max<int64_t>(busy_ns, 0)) * 1e-9;
  const double keep = std::max(0.0, 1 - s / kWindowS);
  done_tokens_ = done_tokens_ * keep + static_cast<double>(tokens);
  busy_s_ = busy_s_ * keep + s;
}

void Admission::finished(uint32_t new_tokens) {
  usual_new_tokens_ += (static_cast<double>(new_tokens) - usual_new_tokens_) * kUsualShare;
}

}  // namespace bp::rt
