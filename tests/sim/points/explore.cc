#include "tests/sim/points/explore.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <unordered_map>

#include "tests/sim/points/fail_alloc.h"

namespace bp::sim {
namespace {

constexpr unsigned kChildSeconds = 60;  // of real time: more is a loop without end
constexpr size_t kTextBytes = 1 << 16;

// What a copy tells: memory that both see.
struct Report {
  Fault fault;
  bool second_crash;
  char text[kTextBytes];
};

Report& report() {
  static Report* shared = static_cast<Report*>(::mmap(
      nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  return *shared;
}

enum class Role { kFirst, kCopy };

class Explorer {
 public:
  Explorer(const Recipe& recipe, const Plan& plan, Tally& tally)
      : recipe_(recipe), plan_(plan), tally_(tally), world_(recipe.seed, trouble_of(recipe)) {}

  std::optional<Failure> run() {
    world_.vfs.before = [this](uint64_t number, DiskOp op) { return at(number, op); };
    std::mt19937_64 random(recipe_.seed);
    for (uint64_t i = 0; i < plan_.allocations; ++i) allocations_.insert(random() % 60'000);
    g_on_allocation = [this](uint64_t number) { return at_allocation(number); };
    g_allocations = 0;
    Script script(world_, recipe_);
    script.run();
    g_on_allocation = nullptr;
    world_.vfs.before = nullptr;  // the end of the process is no part of the history
    if (role_ == Role::kCopy) tell_and_exit();
    ++tally_.histories;
    if (!failure_ && !world_.ledger.violations().empty())
      failure_ = Failure{recipe_, 0, "no crash", world_.ledger.violations()[0].fault,
                         world_.ledger.violations()[0].text};
    return failure_;
  }

 private:
  static Trouble trouble_of(const Recipe& r) {
    return r.trouble ? Trouble{} : Trouble{0, 0, 0, 0, 0, 0, 0, 0, 0};
  }
  bool enough() const {
    return failure_ || (!plan_.only && tally_.points >= plan_.points);
  }

  Verdict at(uint64_t number, DiskOp op) {
    if (role_ == Role::kCopy) return in_copy();
    static constexpr int kKinds = 6;
    const bool clean = !world_.vfs.disk().unsynced();
    for (int kind = 0; kind < kKinds; ++kind) {
      if (enough()) break;
      if (kind > 0 && kind < 4 && clean) continue;  // there is no tail
      if (kind == 5 && op != DiskOp::kWrite && op != DiskOp::kCreate) continue;
      if (op == DiskOp::kCreate && kind == 4) continue;
      ++point_;
      if (plan_.only && point_ != *plan_.only) continue;
      ++tally_.points;
      ++tally_.by_kind[kind];
      std::string where = "operation " + std::to_string(number) + " (" + name_of(op) + "), ";
      where += kind < 4 ? "tail " + std::string(name_of(Tail(kind))) : kind == 4 ? "EIO" : "ENOSPC";
      if (kind < 4 && same_as_before(Tail(kind))) continue;
      if (fork_copy(where)) return become(kind);
    }
    return Verdict::kGo;
  }

  // Within one turn of the loop nothing outside of the disk changes, and without a sync in between
  // the same is left when the tail is lost.
  bool same_as_before(Tail tail) {
    if (tail != Tail::kLost) return false;
    const std::pair now(world_.time.steps, world_.vfs.syncs());
    return std::exchange(lost_at_, now) == now;
  }

  // True in the copy. In the first one: waits for it, and takes what it tells.
  bool fork_copy(const std::string& where) {
    ++tally_.tried;
    Report& r = report();
    r.fault = Fault::kBroken;
    r.second_crash = false;
    std::strcpy(r.text, "it ended without a word");
    const pid_t pid = ::fork();
    if (pid == 0) {
      role_ = Role::kCopy;
      where_ = where;
      ::alarm(kChildSeconds);
      return true;
    }
    int status = 0;
    if (pid < 0 || ::waitpid(pid, &status, 0) != pid) {
      failure_ = Failure{recipe_, point_, where, Fault::kBroken, "fork failed"};
      return false;
    }
    tally_.pairs += r.second_crash;
    if (WIFEXITED(status) && r.fault == Fault::kNone) return false;
    std::string text = r.text;
    if (WIFSIGNALED(status)) {
      if (terminates_ && WTERMSIG(status) == SIGABRT) {
        ++tally_.terminated;  // the process would have died right there: a crash with tail kept
        return false;
      }
      text = "killed by signal " + std::to_string(WTERMSIG(status)) +
             (WTERMSIG(status) == SIGALRM ? " (no end after 60 s)" : "");
    }
    tally_.lost += r.fault == Fault::kLost;
    tally_.duplicate += r.fault == Fault::kDuplicate;
    tally_.broken += r.fault == Fault::kBroken;
    failure_ = Failure{recipe_, point_, where, r.fault, text};
    return false;
  }

  Verdict become(int kind) {
    std::mt19937_64 random(recipe_.seed * 1'000'003 + point_);
    if (random() % plan_.second_of == 0) second_in_ = 1 + random() % 200;
    world_.may_refuse = kind >= 4;
    if (kind >= 4) return kind == 4 ? Verdict::kError : Verdict::kFull;
    world_.vfs.die(Tail(kind), random);
    return Verdict::kGo;
  }

  Verdict in_copy() {
    if (world_.vfs.dead() || second_in_ == 0 || --second_in_ > 0) return Verdict::kGo;
    std::mt19937_64 random(recipe_.seed * 7 + point_);
    report().second_crash = true;
    world_.vfs.die(Tail(random() % 4), random);
    return Verdict::kGo;
  }

  // True: this allocation fails.
  bool at_allocation(uint64_t number) {
    if (role_ == Role::kCopy || enough() || !allocations_.count(number)) return false;
    ++point_;
    if (plan_.only && point_ != *plan_.only) return false;
    ++tally_.points;
    ++tally_.allocations;
    terminates_ = true;
    const bool copy = fork_copy("allocation " + std::to_string(number));
    terminates_ = false;
    return copy;
  }

  [[noreturn]] void tell_and_exit() {
    Report& r = report();
    const auto& violations = world_.ledger.violations();
    r.fault = violations.empty() ? Fault::kNone : violations[0].fault;
    std::string text;
    for (const auto& v : violations)
      text += std::string(text.empty() ? "" : "\n  ") + name_of(v.fault) + ": " + v.text;
    std::snprintf(r.text, sizeof r.text, "%s", text.c_str());
    if (!violations.empty() && plan_.only) world_.save_disk("build/sim/failed");
    ::_exit(0);
  }

  const Recipe recipe_;
  const Plan& plan_;
  Tally& tally_;
  PointsWorld world_;
  Role role_ = Role::kFirst;
  std::set<uint64_t> allocations_;
  uint64_t point_ = 0, second_in_ = 0;
  std::pair<uint64_t, uint64_t> lost_at_;
  bool terminates_ = false;
  std::string where_;
  std::optional<Failure> failure_;
};

}  // namespace

std::optional<Failure> explore(const Recipe& recipe, const Plan& plan, Tally& tally) {
  return Explorer(recipe, plan, tally).run();
}

Failure shrink(Failure failure, const Plan& plan) {
  const auto smaller = [&](Recipe r) {
    Plan p = plan;
    p.points = 4'000;
    p.only.reset();
    Tally tally;
    auto found = explore(r, p, tally);
    if (!found || found->fault != failure.fault) return false;
    failure = *found;
    return true;
  };
  for (auto part : {&Recipe::trouble, &Recipe::builtin, &Recipe::commands, &Recipe::maps,
                    &Recipe::waits, &Recipe::own, &Recipe::shared}) {
    Recipe r = failure.recipe;
    if (!(r.*part)) continue;
    r.*part = false;
    if (!r.own && !r.shared) continue;
    smaller(r);
  }
  for (auto number : {&Recipe::runs, &Recipe::stages}) {
    for (int n = 1; n < failure.recipe.*number; ++n) {
      Recipe r = failure.recipe;
      r.*number = n;
      if (smaller(r)) break;
    }
  }
  return failure;
}

}  // namespace bp::sim
