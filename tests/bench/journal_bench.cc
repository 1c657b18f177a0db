// Measures the journal alone. Prints one line per figure: NAME VALUE UNIT.
//   journal_bench commit FOLDER [--entries N] [--bytes N] [--commits N] [--wal-pages N] [--page N]
//                              [--in-flight N]
//   journal_bench search FOLDER [--runs N] [--rate RUNS_PER_S]
#include <sys/resource.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "engine/base/clock.h"
#include "engine/base/files.h"
#include "storage/sqlite_journal.h"

using namespace bp;
using namespace bp::storage;

namespace {

std::map<std::string, int64_t> g_options;
int64_t option(const std::string& name, int64_t otherwise) {
  auto it = g_options.find(name);
  return it == g_options.end() ? otherwise : it->second;
}

[[noreturn]] void die(const Error& e) {
  std::fprintf(stderr, "%s\n", e.to_string().c_str());
  std::exit(1);
}

void print(const char* name, double value, const char* unit) {
  std::printf("%-36s %12.2f %s\n", name, value, unit);
  std::fflush(stdout);
}

/// CPU time of the thread whose name in /proc is `task`; of the whole process for 0.
double process_cpu_s() {
  rusage u{};
  ::getrusage(RUSAGE_SELF, &u);
  return double(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
         double(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

std::unique_ptr<SqliteJournal> open(const std::string& folder) {
  if (Status ok = make_dirs(folder); !ok) die(ok.error());
  SqliteJournalOptions o;
  o.path = folder + "/journal.db";
  o.wal_pages = int(option("wal-pages", o.wal_pages));
  o.page_bytes = int(option("page", o.page_bytes));
  auto journal = SqliteJournal::open(o);
  if (!journal) die(journal.error());
  return std::move(journal).value();
}

/// Commits with a bound on how many are under way, as the conductor does.
class Pump {
 public:
  Pump(Journal& journal, size_t in_flight) : journal_(journal), in_flight_(in_flight) {}
  void commit(Commit c) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return under_way_ < in_flight_; });
    ++under_way_;
    lock.unlock();
    const int64_t begin = monotonic_ns();
    journal_.commit(std::move(c), [this, begin](Status ok) {
      if (!ok) die(ok.error());
      std::lock_guard guard(mutex_);
      waits_us.push_back(double(monotonic_ns() - begin) / 1e3);
      --under_way_;
      wake_.notify_one();
    });
  }
  void drain() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return under_way_ == 0; });
  }
  std::vector<double> waits_us;

 private:
  Journal& journal_;
  const size_t in_flight_;
  std::mutex mutex_;
  std::condition_variable wake_;
  size_t under_way_ = 0;
};

double quantile(std::vector<double> v, double q) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[size_t(q * double(v.size() - 1))];
}

int bench_commit(const std::string& folder) {
  auto journal = open(folder);
  const auto entries = uint64_t(option("entries", 256));
  const auto bytes = size_t(option("bytes", 300));
  const auto commits = uint64_t(option("commits", 3000));
  Pump pump(*journal, size_t(option("in-flight", 1)));
  uint64_t number = journal->recover().value().last_commit;
  auto next = [&] {
    Commit c;
    c.number = ++number;
    c.replay_from = number;
    c.wall_ms = 1'700'000'000'000 + int64_t(number);
    c.entries.resize(entries);
    for (uint64_t i = 0; i < entries; ++i) {
      Entry& e = c.entries[i];
      e.run_number = 1'000'000 + i;
      e.run_seq = number;
      e.previous_commit = number == 1 ? 0 : number - 1;
      e.wall_ms = c.wall_ms;
      e.type = 15;
      e.next = {Actor::kStageHost, 123'456'789};
      e.body.assign(bytes, char('a' + i % 26));
    }
    return c;
  };
  for (int i = 0; i < 100; ++i) pump.commit(next());  // warm
  pump.drain();
  pump.waits_us.clear();
  std::deque<Commit> ready;
  for (uint64_t i = 0; i < commits; ++i) ready.push_back(next());
  const double cpu = process_cpu_s();
  const int64_t begin = monotonic_ns();
  while (!ready.empty()) {
    pump.commit(std::move(ready.front()));
    ready.pop_front();
  }
  pump.drain();
  const double took_s = double(monotonic_ns() - begin) / 1e9;
  const double used_s = process_cpu_s() - cpu;
  const double all = double(commits) * double(entries);
  print("journal.commit_p50_us", quantile(pump.waits_us, 0.5), "us");
  print("journal.commit_p99_us", quantile(pump.waits_us, 0.99), "us");
  print("journal.commit_max_us", quantile(pump.waits_us, 1), "us");
  print("journal.commit_mean_us", took_s * 1e6 / double(commits), "us");
  print("journal.cpu_per_entry_us", used_s * 1e6 / all, "us");
  print("journal.entries_per_s", all / took_s, "/s");
  return 0;
}

/// CPU seconds of each thread of this process, by thread id.
std::map<int, double> thread_cpu() {
  std::map<int, double> out;
  FILE* list =
      ::popen("for t in /proc/$PPID/task/*; do echo ${t##*/} $(cat $t/schedstat); done", "r");
  if (!list) return out;
  int id = 0;
  double ns = 0, waited = 0, slices = 0;
  while (std::fscanf(list, "%d %lf %lf %lf", &id, &ns, &waited, &slices) == 4) out[id] = ns / 1e9;
  ::pclose(list);
  return out;
}

EndedRow ended_run(uint64_t run, uint64_t commit, int64_t wall_ms) {
  EndedRow r;
  r.run_number = run;
  r.run_id = "r" + std::to_string(run) + "-x7k2pq";
  r.name = "job-" + std::to_string(run);
  r.workflow = "six-stages-" + std::to_string(run % 7);
  r.state = run % 97 == 0 ? 8 : 5;
  if (r.state == 8) r.error_code = "BP_IO";
  r.created_wall_ms = wall_ms - 40;
  r.ended_wall_ms = wall_ms;
  r.idempotency_key = "key-" + std::to_string(run * 0x9e3779b97f4a7c15u);
  r.labels = {{"team", "team-" + std::to_string(run % 50)},
              {"customer", "customer-" + std::to_string(run * 2654435761u % 100'000)},
              {"request", "request-" + std::to_string(run)}};
  r.last_commit = commit;
  return r;
}

template <class F>
void timed(const char* name, int times, F f) {
  std::vector<double> ms;
  for (int i = 0; i < times; ++i) {
    const int64_t begin = monotonic_ns();
    f(i);
    ms.push_back(double(monotonic_ns() - begin) / 1e6);
  }
  print((std::string(name) + "_p50_ms").c_str(), quantile(ms, 0.5), "ms");
  print((std::string(name) + "_max_ms").c_str(), quantile(ms, 1), "ms");
}

void queries(SqliteJournal& j, uint64_t runs, int64_t begin_wall_ms) {
  auto must = [](auto result) {
    if (!result) die(result.error());
    return std::move(result).value();
  };
  EndedQuery q;
  q.limit = 50;
  timed("list_newest", 20, [&](int) { must(j.ended(q)); });
  timed("list_page_back", 20, [&](int i) {
    EndedQuery page = q;
    page.before_run_number = runs / 20 * uint64_t(i + 1);
    must(j.ended(page));
  });
  timed("by_number", 1000, [&](int i) { must(j.ended_by_number(uint64_t(i) * 7919 % runs + 1)); });
  timed("by_new_key", 1000, [&](int i) { must(j.ended_by_key("new-" + std::to_string(i))); });
  timed("by_known_key", 100, [&](int i) {
    const uint64_t run = uint64_t(i) * 104729 % runs + 1;
    must(j.ended_by_key(ended_run(run, 0, 0).idempotency_key));
  });
  timed("failed", 20, [&](int) {
    EndedQuery f = q;
    f.states = {8};
    must(j.ended(f));
  });
  timed("label_of_one_run", 20, [&](int i) {
    EndedQuery f = q;
    f.labels["request"] = "request-" + std::to_string(uint64_t(i) * 104729 % runs + 1);
    must(j.ended(f));
  });
  timed("label_of_nobody", 20, [&](int i) {
    EndedQuery f = q;
    f.labels["request"] = "nobody-" + std::to_string(i);
    must(j.ended(f));
  });
  timed("label_of_100_runs", 20, [&](int i) {
    EndedQuery f = q;
    f.limit = 1000;
    f.labels["customer"] = "customer-" + std::to_string(i * 31);
    must(j.ended(f));
  });
  timed("two_labels_and_failed", 20, [&](int i) {
    EndedQuery f = q;
    f.limit = 1000;
    f.states = {8};
    f.labels = {{"team", "team-" + std::to_string(i)}, {"customer", "customer-77"}};
    must(j.ended(f));
  });
  timed("an_old_hour", 20, [&](int) {
    EndedQuery f = q;
    f.created_to_wall_ms = begin_wall_ms + 3'600'000;
    must(j.ended(f));
  });
  timed("name", 20, [&](int i) {
    EndedQuery f = q;
    f.name = "job-" + std::to_string(uint64_t(i) * 104729 % runs + 1);
    must(j.ended(f));
  });
  timed("counts", 20, [&](int) { must(j.ended_counts()); });
}

// Runs end at `rate` (0: as fast as the index takes them), 128 a commit; then it is asked.
int bench_search(const std::string& folder) {
  auto journal = open(folder);
  const auto runs = uint64_t(option("runs", 1'000'000));
  const auto rate = double(option("rate", 0));
  constexpr uint64_t kRunsPerCommit = 128;
  const Recovered before = journal->recover().value();
  uint64_t number = before.last_commit, run = before.last_run_number;
  const int64_t base_wall_ms = 1'700'000'000'000;
  Pump pump(*journal, 2);
  const auto cpu_before = thread_cpu();
  const int64_t begin = monotonic_ns();
  for (uint64_t made = 0; made < runs; made += kRunsPerCommit) {
    Commit c;
    c.number = ++number;
    c.replay_from = number;
    c.wall_ms = base_wall_ms + int64_t(run / 12);
    for (uint64_t i = 0; i < kRunsPerCommit; ++i) {
      ++run;
      Entry e;
      e.run_number = run;
      e.run_seq = 1;
      e.type = 15;
      c.entries.push_back(std::move(e));
      c.ended.push_back(ended_run(run, number, c.wall_ms));
    }
    if (rate > 0) {
      const int64_t due = begin + int64_t(double(made) / rate * 1e9);
      const int64_t left = due - monotonic_ns();
      if (left > 0) std::this_thread::sleep_for(std::chrono::nanoseconds(left));
    } else if (number - journal->searchable_up_to() > 500) {
      if (Status ok = journal->wait_searchable(60'000); !ok) die(ok.error());
    }
    pump.commit(std::move(c));
  }
  pump.drain();
  const double took_s = double(monotonic_ns() - begin) / 1e9;
  const uint64_t lag = number - journal->searchable_up_to();
  if (Status ok = journal->wait_searchable(60'000); !ok) die(ok.error());
  const auto cpu_after = thread_cpu();
  print("runs_in_all", double(run), "");
  print("runs_per_s", double(runs) / took_s, "/s");
  print("lag_at_the_end", double(lag), "commits");
  print("journal.commit_p50_us", quantile(pump.waits_us, 0.5), "us");
  print("journal.commit_p99_us", quantile(pump.waits_us, 0.99), "us");
  int nth = 0;
  for (const auto& [id, cpu] : cpu_after) {
    const auto it = cpu_before.find(id);
    const double used = cpu - (it == cpu_before.end() ? 0 : it->second);
    static const char* const kNames[] = {"feeder", "index_thread", "writer_thread"};
    const char* name = nth < 3 ? kNames[nth] : "other";
    print((std::string(name) + "_cpu").c_str(), 100 * used / took_s, "% of a core");
    print((std::string(name) + "_us_per_run").c_str(), 1e6 * used / double(runs), "us");
    ++nth;
  }
  queries(*journal, run, base_wall_ms);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 2 ? argv[1] : "";
  for (int i = 3; i + 1 < argc; i += 2) g_options[argv[i] + 2] = std::atoll(argv[i + 1]);
  if (what == "commit") return bench_commit(argv[2]);
  if (what == "search") return bench_search(argv[2]);
  std::fprintf(stderr, "usage: journal_bench commit|search FOLDER [--OPTION NUMBER]...\n");
  return 2;
}
