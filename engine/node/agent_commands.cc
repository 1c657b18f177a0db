#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <boost/asio/post.hpp>

#include "engine/base/files.h"
#include "engine/base/log.h"
#include "engine/node/agent_impl.h"
#include "engine/node/convert.h"

namespace bp::node {
namespace {
constexpr uint32_t kLogChunkMax = 1 << 20;
constexpr int kExitDelayMs = 150;  // for the last reply to leave
}  // namespace

void Agent::Impl::on_message(const std::string& payload) {
  auto parsed = bus::parse<v1::NodeMessage>(payload);
  if (!parsed.ok()) {
    BP_LOG(warn, "message.garbage", "from=daemon error=\"{}\"", parsed.error().message);
    return;
  }
  link->heard();
  const v1::NodeMessage& m = *parsed;
  if (m.has_hello_ack()) {
    const auto& ack = m.hello_ack();
    link->greeted(!ack.has_refused());
    if (ack.has_refused()) {
      BP_LOG(warn, "daemon.refused", "code={} message=\"{}\"", ack.refused().code(),
             ack.refused().message());
    }
  } else if (m.has_beat_ack()) {
    acknowledge(m.beat_ack());
  } else if (m.has_command()) {
    on_command(m.command());
  } else {
    BP_LOG(warn, "message.unknown", "from=daemon body={}", static_cast<int>(m.body_case()));
  }
}

void Agent::Impl::acknowledge(const v1::NodeBeatAck& ack) {
  if (ack.ended_keys().empty()) return;
  auto* ended = store.state().mutable_ended();
  const int before = ended->size();
  for (int i = ended->size() - 1; i >= 0; --i) {
    const auto& e = ended->Get(i);
    for (const auto& key : ack.ended_keys()) {
      if (e.process_key() != key || !ended_sent.count(e.identity().pid())) continue;
      ended_sent.erase(e.identity().pid());
      ended->DeleteSubrange(i, 1);
      break;
    }
  }
  if (ended->size() == before) return;
  if (auto s = store.save(); !s.ok())
    BP_LOG(warn, "state.not_saved", "error=\"{}\"", s.error().to_string());
}

void Agent::Impl::reply(uint64_t call_id, const Status& status, v1::NodeCommandReply answer) {
  v1::NodeMessage m;
  answer.set_call_id(call_id);
  if (!status.ok()) to_proto(status.error(), answer.mutable_error());
  *m.mutable_reply() = std::move(answer);
  link->send(std::move(m));
}

Status Agent::Impl::fence(const v1::NodeCommand& c) {
  if (c.run_id() != options.run_id) {
    return Error{ErrorCode::kConflict,
                 "node " + options.node_id + " belongs to run " + options.run_id +
                     ", the command is for run \"" + c.run_id().substr(0, 80) + "\"",
                 {}};
  }
  const Epoch epoch = from_proto(c.epoch()), newest = from_proto(store.state().newest_epoch());
  const bool only_looks = c.has_list() || c.has_read_log() || c.has_fetch_query();
  if (only_looks && epoch == Epoch{}) return {};  // of nobody's attempt: a person looks
  if (epoch < newest) {
    return Error{ErrorCode::kStaleEpoch,
                 "node " + options.node_id + " has seen epoch " + newest.to_string() +
                     ", the command is of epoch " + epoch.to_string(),
                 {}};
  }
  if (epoch == newest) return {};
  to_proto(epoch, store.state().mutable_newest_epoch());
  auto saved = store.save();
  if (!saved.ok()) to_proto(newest, store.state().mutable_newest_epoch());
  return saved;
}

void Agent::Impl::on_command(const v1::NodeCommand& c) {
  if (releasing && !c.has_release()) {
    return reply(c.call_id(),
                 Error{ErrorCode::kConflict, "node " + options.node_id + " is being released", {}});
  }
  if (auto s = fence(c); !s.ok()) return reply(c.call_id(), s);
  dispatch(c, from_proto(c.epoch()));
}

void Agent::Impl::finish(const std::string& bytes, uint64_t call_id, const Status& status,
                         v1::NodeCommandReply answer) {
  in_flight.erase(bytes);
  reply(call_id, status, std::move(answer));
}

void Agent::Impl::dispatch(const v1::NodeCommand& c, Epoch epoch) {
  const uint64_t id = c.call_id();
  v1::NodeCommandReply out;
  std::string bytes;
  if (c.has_start() || c.has_stop() || c.has_release()) {
    bytes = c.SerializeAsString();
    if (!in_flight.insert(bytes).second) return;  // a repeat: the first one will be answered
  }
  switch (c.what_case()) {
    case v1::NodeCommand::kStart:
      return table.start(c.start(), epoch, [this, id, bytes](Result<v1::ProcessStatus> r) {
        v1::NodeCommandReply started;
        if (!r.ok()) return finish(bytes, id, r.error());
        *started.mutable_started() = std::move(*r);
        finish(bytes, id, {}, std::move(started));
      });
    case v1::NodeCommand::kStop:
      return table.stop(c.stop().process_key(), c.stop().grace_ms(),
                        [this, id, bytes](Status s) { finish(bytes, id, s); });
    case v1::NodeCommand::kList:
      out.mutable_list();
      for (auto& p : table.list()) *out.mutable_list()->add_processes() = std::move(p);
      return reply(id, {}, std::move(out));
    case v1::NodeCommand::kFetch: {
      auto r = fetches.request(c.fetch());
      if (!r.ok()) return reply(id, r.error());
      *out.mutable_fetch() = std::move(*r);
      return reply(id, {}, std::move(out));
    }
    case v1::NodeCommand::kFetchQuery: {
      auto r = fetches.query(c.fetch_query().fetch_key());
      if (!r.ok()) return reply(id, r.error());
      *out.mutable_fetch() = std::move(*r);
      return reply(id, {}, std::move(out));
    }
    case v1::NodeCommand::kReadLog: {
      auto r = read_log(c.read_log());
      if (!r.ok()) return reply(id, r.error());
      *out.mutable_log() = std::move(*r);
      return reply(id, {}, std::move(out));
    }
    case v1::NodeCommand::kRelease:
      return release(bytes, id, c.release().grace_ms());
    case v1::NodeCommand::WHAT_NOT_SET:
      return reply(id, Error{ErrorCode::kProtocol,
                             "node " + options.node_id + ": a command of no known kind",
                             {}});
  }
}

Result<v1::LogChunk> Agent::Impl::read_log(const v1::ReadLog& wanted) const {
  if (!is_plain_name(wanted.process_key())) {
    return Error{ErrorCode::kInvalidArgument,
                 "no process key: \"" + wanted.process_key().substr(0, 80) + "\"",
                 {}};
  }
  const std::string path = table.log_path(wanted.process_key());
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd)
    return errno_error("log of " + wanted.process_key() + " on node " + options.node_id, errno);
  const off_t size = ::lseek(fd.get(), 0, SEEK_END);
  v1::LogChunk out;
  out.set_size(static_cast<uint64_t>(std::max<off_t>(size, 0)));
  const uint64_t offset = std::min(wanted.offset(), out.size());
  std::string data(std::min<uint64_t>({wanted.max_bytes(), kLogChunkMax, out.size() - offset}),
                   '\0');
  const ssize_t n = ::pread(fd.get(), data.data(), data.size(), static_cast<off_t>(offset));
  if (n < 0) return errno_error("read " + path, errno);
  data.resize(static_cast<size_t>(n));
  out.set_next_offset(offset + data.size());
  out.set_data(std::move(data));
  return out;
}

void Agent::Impl::release(const std::string& bytes, uint64_t call_id, int64_t grace_ms) {
  BP_LOG(info, "node.release", "node={} processes={}", options.node_id, table.list().size());
  releasing = true;
  fetches.stop();
  table.stop_all(grace_ms, [this, bytes, call_id](std::vector<std::string> survivors) {
    Status s = released(std::move(survivors));
    releasing = s.ok();
    finish(bytes, call_id, s);
    if (!s.ok()) return;
    BP_LOG(info, "node.released", "node={}", options.node_id);
    exit_timer.expires_after(std::chrono::milliseconds(kExitDelayMs));
    exit_timer.async_wait([this](const boost::system::error_code&) { io.stop(); });
  });
}

Status Agent::Impl::released(std::vector<std::string> survivors) {
  const auto marked = processes_marked(options.work_dir);
  for (const ProcessId& p : marked) (void)process_signal(p, SIGKILL);  // helpers of heads and ranks
  const Deadline deadline = Deadline::in_ms(1'000);
  for (const ProcessId& p : marked) {
    if (process_wait_gone(p, deadline).ok()) continue;
    survivors.push_back("pid " + std::to_string(p.pid) + " is still there after SIGKILL");
  }
  if (!survivors.empty()) {
    std::string text = "node " + options.node_id + " has survivors:";
    for (const auto& s : survivors) text += " " + s + ";";
    return Error{ErrorCode::kNeedsHuman, text, {}};
  }
  table.segments().clear();
  return remove_tree(options.work_dir);
}

}  // namespace bp::node
