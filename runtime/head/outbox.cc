#include "runtime/head/outbox.h"

#include "engine/base/log.h"

namespace bp::rt {

Outbox::Outbox(std::function<void(std::function<void()>)> deliver,
               std::function<void(std::vector<uint64_t>)> unwanted)
    : deliver_(std::move(deliver)), unwanted_(std::move(unwanted)) {
  if (!deliver_) deliver_ = [](const std::function<void()>& run) { run(); };
}

void Outbox::token(uint64_t id, std::shared_ptr<Listener> to, SequenceUpdate update) {
  items_.push_back({id, std::move(to), std::move(update), std::nullopt, 0});
}

void Outbox::failure(uint64_t id, std::shared_ptr<Listener> to, const Error& error,
                     int64_t retry_after_ms) {
  Item item{id, std::move(to), {}, error, retry_after_ms};
  item.update.finished = true;
  item.update.finish_reason = "error";
  items_.push_back(std::move(item));
}

void Outbox::hand_out() {
  if (items_.empty()) return;
  auto items = std::make_shared<std::vector<Item>>(std::exchange(items_, {}));
  deliver_([items, tell = unwanted_] {
    std::vector<uint64_t> ids;
    for (Item& item : *items) {
      if (item.to->unwanted || call(item)) continue;
      item.to->unwanted = true;
      if (!item.update.finished) ids.push_back(item.id);
    }
    if (!ids.empty()) tell(std::move(ids));
  });
}

bool Outbox::call(Item& item) {
  SequenceEvent event;
  if (!item.error) event.token = &item.update.token;
  event.last = item.update.finished;
  event.finish_reason = item.update.finish_reason;
  event.error = item.error ? &*item.error : nullptr;
  event.retry_after_ms = item.retry_after_ms;
  try {
    return item.to->sink(event);
  } catch (const std::exception& e) {  // the other sequences go on
    BP_LOG(err, "sink.failed", "sequence={} error={}", item.id, e.what());
    return false;
  }
}

}  // namespace bp::rt
