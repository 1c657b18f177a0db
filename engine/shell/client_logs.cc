// logs: what stages logged (kept by the daemon) and logs of processes (kept by their nodes).
#include <algorithm>

#include "engine/shell/client_api.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {
constexpr size_t kChunkBytes = 64 << 10;
constexpr int64_t kNodePollMs = 500;
constexpr int64_t kNodeDeadlineMs = 5'000;
constexpr size_t kTailsMax = 200;
constexpr size_t kLineBytes = 16 << 10;
}  // namespace

void ClientApi::logs(const Asker& to, const v1::ReadStageLog& m) {
  if (tails_.size() >= kTailsMax) {
    return fail(to, Error{ErrorCode::kUnavailable,
                          "too many readers of logs (" + std::to_string(kTailsMax) + ")",
                          {}});
  }
  core::RunState loaded;
  const core::RunState* run = conductor_.find_live(m.id());
  if (!run) {
    auto ended = load(m.id());
    if (!ended.ok()) return fail(to, ended.error());
    loaded = std::move(ended).value();
    run = &loaded;
  }
  Tail tail;
  tail.run_id = run->run_id;
  tail.follow = m.follow();
  if (!m.process_key().empty()) {
    for (const Node* node : nodes_.nodes_of(run->run_id)) {
      if (node->processes.count(m.process_key())) tail.node_id = node->node_id;
    }
    if (tail.node_id.empty()) {
      return fail(
          to,
          Error{ErrorCode::kNotFound, "no process " + m.process_key() + " in " + run->name, {}});
    }
    tail.process_key = m.process_key();
    tails_[to] = tail;
    return read_node_log(to);
  }
  for (const auto& d : run->workflow->definition().stages()) {
    if (m.stage().empty() || m.stage() == d.name()) tail.offsets[d.name()] = 0;
  }
  if (tail.offsets.empty()) {
    return fail(to, Error{ErrorCode::kNotFound, "no stage " + m.stage() + " in " + run->name, {}});
  }
  // Stages in the order of the workflow, then whatever comes.
  tails_[to] = tail;
  for (const auto& d : run->workflow->definition().stages()) {
    auto it = tails_.find(to);
    if (it == tails_.end()) return;
    if (it->second.offsets.count(d.name())) read_stage_log(to, d.name());
  }
  if (!m.follow() || core::is_ended(run->state())) end_tail(to);
}

void ClientApi::end_tail(const Asker& to) {
  tails_.erase(to);
  reply(to, v1::ClientReply());
}

// "WALL_MS LEVEL TEXT" as StageLogs keeps it.
void ClientApi::send_line(const Asker& to, const std::string& source, const std::string& line) {
  v1::ClientReply r;
  auto* l = r.mutable_log();
  l->set_source(source);
  const size_t space = line.find(' ');
  int64_t wall_ms = 0;
  bool stamped = space != std::string::npos && space > 0 && space < 16;
  for (size_t i = 0; stamped && i < space; ++i) {
    stamped = line[i] >= '0' && line[i] <= '9';
    wall_ms = wall_ms * 10 + (line[i] - '0');
  }
  l->set_wall_ms(stamped ? wall_ms : 0);
  l->set_text(stamped ? line.substr(space + 1) : line);
  reply(to, std::move(r), false);
}

void ClientApi::read_stage_log(const Asker& to, const std::string& stage) {
  auto it = tails_.find(to);
  if (it == tails_.end()) return;
  uint64_t& offset = it->second.offsets[stage];
  for (;;) {
    std::string chunk = world_.logs.read(it->second.run_id, stage, offset, kChunkBytes);
    size_t end = chunk.rfind('\n');
    if (end == std::string::npos) return;
    for (size_t at = 0; at <= end;) {
      size_t next = chunk.find('\n', at);
      send_line(to, stage, chunk.substr(at, next - at));
      at = next + 1;
    }
    offset += end + 1;
  }
}

void ClientApi::logged(const std::string& run_id, const std::string& stage) {
  std::vector<Asker> readers;
  for (const auto& [asker, tail] : tails_) {
    if (tail.follow && tail.run_id == run_id && tail.offsets.count(stage)) readers.push_back(asker);
  }
  for (const auto& asker : readers) read_stage_log(asker, stage);
}

void ClientApi::run_ended(const std::string& run_id) {
  std::vector<Asker> readers;
  for (const auto& [asker, tail] : tails_) {
    if (tail.run_id == run_id) readers.push_back(asker);
  }
  for (const auto& asker : readers) end_tail(asker);
}

void ClientApi::read_node_log(const Asker& to) {
  auto it = tails_.find(to);
  if (it == tails_.end()) return;
  Tail& tail = it->second;
  v1::NodeCommand command;
  *command.mutable_epoch() = hosts_.fence(tail.run_id);
  command.mutable_read_log()->set_process_key(tail.process_key);
  command.mutable_read_log()->set_offset(tail.node_offset);
  command.mutable_read_log()->set_max_bytes(kChunkBytes);
  const std::string key = "log/" + to.routing_id + "/" + std::to_string(to.request_id);
  nodes_.call(key, tail.run_id, tail.node_id, std::move(command), kNodeDeadlineMs,
              [this, alive = alive_, to](v1::NodeCommandReply answer) {
                if (*alive) on_node_log(to, answer);
              });
}

void ClientApi::on_node_log(const Asker& to, const v1::NodeCommandReply& answer) {
  auto it = tails_.find(to);
  if (it == tails_.end()) return;
  Tail& tail = it->second;
  if (answer.has_error()) {
    v1::ClientReply r;
    *r.mutable_error() = answer.error();
    tails_.erase(it);
    return reply(to, std::move(r));
  }
  tail.partial += answer.log().data();
  for (size_t next;
       (next = tail.partial.find('\n')) != std::string::npos || tail.partial.size() > kLineBytes;) {
    const size_t size = std::min(next, kLineBytes);
    send_line(to, tail.process_key, tail.partial.substr(0, size));
    tail.partial.erase(0, next == std::string::npos ? size : size + 1);
  }
  const bool more = answer.log().next_offset() > tail.node_offset;
  tail.node_offset = answer.log().next_offset();
  if (!more && !tail.follow) return end_tail(to);
  world_.executor.after(more ? 0 : kNodePollMs, [this, alive = alive_, to] {
    if (*alive) read_node_log(to);
  });
}

}  // namespace bp::shell
