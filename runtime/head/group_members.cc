#include "runtime/head/group_members.h"

#include "runtime/comm/rank_protocol.h"

namespace bp::rt {
namespace {

std::string differs(const char* what, const std::string& found, const std::string& expected) {
  return std::string(what) + " is \"" + found + "\", expected \"" + expected + "\"; ";
}

bool same_process(const v1::ProcessIdentity& a, const v1::ProcessIdentity& b) {
  return a.pid() == b.pid() && a.start_ticks() == b.start_ticks() && a.boot_id() == b.boot_id();
}

}  // namespace

const char* member_state_name(JoinedRank::State state) {
  switch (state) {
    case JoinedRank::State::kMissing: return "missing";
    case JoinedRank::State::kLeaving: return "leaving";
    case JoinedRank::State::kJoined: return "joined";
    case JoinedRank::State::kLoading: return "loading";
    case JoinedRank::State::kLoaded: return "loaded";
  }
  return "missing";
}

void GroupMembers::expect(Epoch epoch, uint32_t ranks) {
  epoch_ = epoch;
  generation_ = 1;
  members_.assign(ranks, {});
}

void GroupMembers::regroup() {
  ++generation_;
  for (JoinedRank& m : members_) {
    if (m.state != JoinedRank::State::kMissing) m.state = JoinedRank::State::kLeaving;
  }
}

void GroupMembers::forget(uint32_t rank) {
  JoinedRank free;
  free.hello = std::move(members_[rank].hello);   // for its label
  free.hello.clear_process();
  members_[rank] = std::move(free);
}

GroupMembers::Admission GroupMembers::admit(const std::string& routing_id, const v1::RankHello& hello,
                                            uint64_t generation) {
  if (hello.rank() >= members_.size()) {
    return {Verdict::kRefused, "the group has " + std::to_string(members_.size()) + " ranks, no rank " +
                                   std::to_string(hello.rank())};
  }
  JoinedRank& m = members_[hello.rank()];
  const bool there = m.state != JoinedRank::State::kMissing;
  if (there && !same_process(m.hello.process(), hello.process())) {
    if (same_process(m.hello.process(), hello.replaces())) return {Verdict::kReplaces, {}};
    return {Verdict::kRefused, "rank " + std::to_string(hello.rank()) + " has joined already (process " +
                                   std::to_string(m.hello.process().pid()) + "); a new one needs a new epoch"};
  }
  if (generation != generation_ && (generation != 0 || m.welcomed)) {
    if (there) return {Verdict::kLate, {}};
    return {Verdict::kRefused, "rank " + std::to_string(hello.rank()) + " was lost in generation " +
                                   std::to_string(generation)};
  }
  if (there && m.state != JoinedRank::State::kLeaving) {
    m.routing_id = routing_id;  // it may have connected anew
    return {Verdict::kKnown, {}};
  }
  if (std::string why = misfit(hello); !why.empty()) return {Verdict::kMisfit, why};
  m.state = JoinedRank::State::kJoined;
  m.routing_id = routing_id;
  m.hello = hello;
  return {Verdict::kJoined, {}};
}

std::string GroupMembers::misfit(const v1::RankHello& hello) const {
  std::string why;
  if (hello.protocol() != kRankProtocol) {
    why += differs("protocol", std::to_string(hello.protocol()), std::to_string(kRankProtocol));
  }
  if (hello.build_id() != build_id_) why += differs("build", hello.build_id(), build_id_);
  for (const JoinedRank& m : members_) {
    if (m.state == JoinedRank::State::kMissing) continue;
    if (m.hello.numerics_class() != hello.numerics_class()) {
      why += differs("numerics class", hello.numerics_class(), m.hello.numerics_class());
    }
    if (m.hello.model_key() != hello.model_key()) {
      why += differs("model", hello.model_key(), m.hello.model_key());
    }
    break;  // all who joined agree
  }
  if (why.empty()) return {};
  return "rank " + std::to_string(hello.rank()) + " (" + hello.node_id() + ") does not fit the group: " +
         why.substr(0, why.size() - 2);
}

JoinedRank* GroupMembers::find(const std::string& routing_id) {
  for (auto& m : members_) {
    if (m.state != JoinedRank::State::kMissing && m.routing_id == routing_id) return &m;
  }
  return nullptr;
}

uint32_t GroupMembers::count_at_least(JoinedRank::State state) const {
  uint32_t n = 0;
  for (auto& m : members_) n += m.state >= state;
  return n;
}

bool GroupMembers::all_at_least(JoinedRank::State state) const {
  return !members_.empty() && count_at_least(state) == members_.size();
}

std::string GroupMembers::label(uint32_t rank) const {
  const std::string& node = members_[rank].hello.node_id();
  return "rank " + std::to_string(rank) + (node.empty() ? "" : " (" + node + ")");
}

}  // namespace bp::rt
