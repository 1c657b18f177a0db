// Stage hosts of the simulated world, and the plugins in them. Inner part of world.h.
//
// A plugin looks for its effect first and makes it some time later: two attempts at work on one
// effect at a time would both make it, and the ledger would tell.
#pragma once
#include "tests/sim/points/world.h"

namespace bp::sim {

class PointsWorld::Host {
 public:
  Host(PointsWorld& world, std::string id) : world_(world), id_(std::move(id)) {
    process = ProcessId{world.next_pid_++, 1, "boot"};
  }
  virtual ~Host() = default;
  virtual void hear(const v1::StageBatch& batch) = 0;
  void begin_life(bool crash_early);
  void die();

  bool living = true;
  ProcessId process;
  std::function<void(std::string)> watcher;

 protected:
  /// One attempt at work.
  struct Work {
    v1::AttemptRef ref;
    v1::AttemptMode mode = v1::ATTEMPT_MODE_UNSPECIFIED;
    std::string effect_key;
    bool acting = false, cancelled = false, ready = false;
    std::unique_ptr<v1::AttemptResult> result;
    uint64_t sequence = 0;
  };
  using WorkPtr = std::shared_ptr<Work>;

  virtual void hello() = 0;
  virtual void acknowledged(Work& work) = 0;
  void begin(const WorkPtr& work, const v1::StageMessage& m);
  void act(const WorkPtr& work);
  void cancel(const WorkPtr& work);
  void finish(const WorkPtr& work, v1::AttemptResult result);
  void repeat(const WorkPtr& work);
  void beat(const WorkPtr& work);
  void say(v1::StageMessage message, uint64_t sequence);
  void later(int64_t low_ms, int64_t high_ms, std::function<void()> call);
  void take_ack(Work& work);

  PointsWorld& world_;
  const std::string id_;
  bool heard_ = false;
  int64_t heard_at_ = 0;
  uint64_t sequence_ = 0;
};

class PointsWorld::OwnHost final : public PointsWorld::Host {
 public:
  using Host::Host;
  void hear(const v1::StageBatch& batch) override;

 private:
  void hello() override;
  void acknowledged(Work& work) override;
  WorkPtr work_;
};

class PointsWorld::SharedHost final : public PointsWorld::Host {
 public:
  SharedHost(PointsWorld& world, std::string id, std::string plugin, uint32_t version)
      : Host(world, std::move(id)), plugin_(std::move(plugin)), version_(version) {}
  void hear(const v1::StageBatch& batch) override;

 private:
  void hello() override;
  void acknowledged(Work& work) override;
  void run(const v1::StageMessage& m);
  static std::string key_of(const v1::AttemptRef& ref);
  std::string plugin_;
  uint32_t version_;
  std::map<std::string, WorkPtr> work_;
  std::set<std::string> over_;
};

}  // namespace bp::sim
