// What only the memory store can: failures and crashes on demand.
#include "storage/memory_store.h"

#include <catch2/catch.hpp>

using namespace bp;
using namespace bp::storage;

TEST_CASE("memory store: an injected failure stores nothing and stays") {
  MemoryStore s;
  s.fail_from_now_on({ErrorCode::kDiskFull, "full", {}});
  Batch b;
  b.put_meta["a"] = "1";
  for (int i = 0; i < 2; ++i) {
    s.commit(b, [](Status ok) { CHECK(ok.error().code == ErrorCode::kDiskFull); });
  }
  CHECK(s.load_live()->meta.empty());
}

TEST_CASE("memory store: held commits become durable on release, or are forgotten") {
  MemoryStore s;
  int answered = 0;
  Batch b;
  b.put_meta["a"] = "1";
  s.hold();
  s.commit(b, [&](Status) { ++answered; });
  CHECK(answered == 0);
  CHECK(s.load_live()->meta.empty());
  s.release();
  CHECK(answered == 1);
  CHECK(s.load_live()->meta.at("a") == "1");
  s.hold();
  b.put_meta["a"] = "2";
  s.commit(b, [&](Status) { ++answered; });
  s.drop_held();
  CHECK(answered == 1);
  CHECK(s.load_live()->meta.at("a") == "1");
}
