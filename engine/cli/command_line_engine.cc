// Commands about runs of any workflow, definitions, limits, schedules and the journal.
#include "engine/cli/command_line.h"

namespace bp::cli {

CLI::App* CommandLine::group(const char* name, const char* what, const char* examples) {
  CLI::App* g = app_.add_subcommand(name, what);
  g->require_subcommand(1);
  g->footer(std::string("Examples:\n") + examples);
  return g;
}

void CommandLine::filter_options(CLI::App* c, bool with_ids) {
  FilterOptions& f = options_.engine.filter;
  if (with_ids) c->add_option("ID", f.ids, "Ids or names; or a filter");
  c->add_option("--label", f.labels, "KEY=VALUE; several must all match");
  c->add_option("--state", f.states, "running, serving, failed, ...; several: any of them");
  c->add_option("--name", f.name, "Name");
  c->add_option("--workflow", f.workflow, "Name of the workflow");
  c->add_option("--error", f.error_code, "Error code, such as BP_DISK_FULL");
  c->add_option("--created-after", f.created_after, "A time, or how long ago: 2026-11-23, 2h, 30d");
  c->add_option("--created-before", f.created_before, "The same");
  c->add_option("--ended-after", f.ended_after, "The same");
  c->add_option("--ended-before", f.ended_before, "The same");
}

void CommandLine::key_option(CLI::App* c) {
  c->add_option("--idempotency-key", options_.idempotency_key,
                "Repeated under the same key, the command changes nothing more");
}

void CommandLine::new_run_options(CLI::App* c) {
  EngineOptions& e = options_.engine;
  c->add_option("--input", e.inputs, "NAME=TEXT, or NAME=@FILE");
  c->add_option("--option", e.options, "KEY=VALUE, for the stages");
  c->add_option("--label", e.filter.labels, "KEY=VALUE, to find it by");
  c->add_option("--limit-key", e.limit_keys, "Holds a slot of this limit while it lives");
  c->add_option("--priority", e.priority, "Higher goes first")->capture_default_str();
  c->add_option("--delay", e.delay, "Start that much later: 30s, 2h");
  c->add_option("--workflow-version", e.version, "0: the newest")->capture_default_str();
}

void CommandLine::add_any_run_commands() {
  EngineOptions& e = options_.engine;
  CLI::App* start = add(&app_, "start", "Start runs of a registered workflow",
                        "  bp start nightly --input day=2026-11-23 --label team=a --wait\n"
                        "  bp start resize --input image=@cat.png --runs 1000 --limit-key gpu\n",
                        run_start);
  start->add_option("WORKFLOW", options_.workflow, "Name of the workflow")->required();
  start->add_option("--name", e.run_name, "Name of the run");
  new_run_options(start);
  start->add_option("--runs", e.runs, "So many runs alike")
      ->capture_default_str()
      ->check(CLI::Range(1, 10'000'000));
  start->add_flag("--wait", e.wait, "Wait until it has ended, or serves");
  key_option(start);
  waiting(start);
  CLI::App* fork = with_id(
      add(&app_, "fork", "A new run that takes over what a run's earlier stages made",
          "  bp fork r12-a1b2c3 --from train --input rate=0.1\n"
          "  bp fork r12-a1b2c3 --from train --workflow nightly --workflow-version 3 --borrow\n",
          run_fork));
  fork->add_option("--from", e.stage, "First stage that runs again; left out: the first");
  fork->add_option("--at-event", e.at_event, "Outputs as they were after that event");
  fork->add_option("--input", e.inputs, "NAME=TEXT or NAME=@FILE, in place of the run's own");
  fork->add_option("--workflow", options_.workflow, "Onto another definition");
  fork->add_option("--workflow-version", e.version, "0: the newest");
  fork->add_option("--name", e.run_name, "Name of the new run");
  fork->add_flag("--borrow", e.borrow,
                 "Use what earlier stages hold (nodes, heads) instead of running them again");
  fork->add_flag("--wait", e.wait, "Wait until it has ended, or serves");
  key_option(fork);
  waiting(fork);
  CLI::App* history = with_id(
      add(&app_, "history", "What happened to a run, event by event",
          "  bp history quickstart\n  bp history quickstart --bodies --after 10\n", run_history));
  history->add_option("--after", e.after_event, "Events after this number");
  history->add_option("--limit", e.limit, "At most so many; 0: all")->default_val(0);
  history->add_option("--archive", e.archive, "From this file instead of the journal");
  history->add_flag("--bodies", e.bodies, "The events themselves, as JSON");
  waiting(history);
  CLI::App* query = with_id(
      add(&app_, "query", "Inputs and outputs of a run; one alone is written as it is",
          "  bp query r12-a1b2c3\n  bp query r12-a1b2c3 resize.image >cat-small.png\n", run_query));
  query->add_option("VALUE", e.values, "STAGE.OUTPUT or input.NAME; left out: their sizes");
}

void CommandLine::add_bulk_commands() {
  EngineOptions& e = options_.engine;
  auto bulk = [this](const char* name, const char* what, const char* examples, Command run) {
    CLI::App* c = add(&app_, name, what, examples, std::move(run));
    filter_options(c, true);
    c->add_flag("--dry-run", options_.engine.dry_run, "Only say which runs are meant");
    key_option(c);
    return c;
  };
  CLI::App* pause = bulk("pause", "Dispatch nothing of these runs; what runs now finishes",
                         "  bp pause nightly\n  bp pause --label team=a --dry-run\n", run_pause);
  pause->add_option("--reason", options_.reason, "Why, for the record");
  bulk("resume", "Go on with paused runs", "  bp resume nightly\n  bp resume --state paused\n",
       run_resume);
  CLI::App* signal =
      bulk("signal", "Send a signal that a stage may wait for",
           "  bp signal r12-a1b2c3 --signal approved --payload '{\"by\": \"ann\"}'\n", run_signal);
  signal->add_option("--signal", e.signal, "Its name")->required();
  signal->add_option("--payload", e.payload, "Text, or @FILE");
  CLI::App* change =
      bulk("change", "Change priority or labels",
           "  bp change r12-a1b2c3 --priority 5 --put team=b --drop draft\n", run_change);
  change->add_option_function<int32_t>(
      "--priority",
      [this](int32_t v) {
        options_.engine.priority = v;
        options_.engine.set_priority = true;
      },
      "Higher goes first");
  change->add_option("--put", e.values, "KEY=VALUE");
  change->add_option("--drop", e.drop_labels, "Label to take away");
  CLI::App* migrate = bulk("migrate", "Move runs onto another definition",
                           "  bp migrate r12-a1b2c3 --to nightly --workflow-version 3\n"
                           "  bp migrate --workflow nightly --state running --to nightly\n",
                           run_migrate);
  migrate->add_option("--to", options_.workflow, "Name of the definition; left out: the same");
  migrate->add_option("--workflow-version", e.version, "0: the newest");
  CLI::App* release =
      bulk("release", "Let go of quarantined runs, once their cause is mended",
           "  bp release r12-a1b2c3\n  bp release --state quarantined --cancel\n", run_release);
  release->add_flag("--cancel", e.cancel, "Tear them down instead of going on");
  const std::pair<const char*, Command> many[] = {
      {"cancel-all", run_cancel_many}, {"stop-all", run_stop_many}, {"retry-all", run_retry_many}};
  for (const auto& [name, run] : many) {
    const std::string word(name, std::string_view(name).find('-'));
    CLI::App* c = bulk(name, (word + " many runs, without waiting").c_str(),
                       ("  bp " + std::string(name) + " --label team=a --dry-run\n").c_str(), run);
    c->add_option("--reason", options_.reason, "Why, for the record");
  }
}

void CommandLine::add_workflow_commands() {
  EngineOptions& e = options_.engine;
  CLI::App* g = group("workflow", "Workflow definitions",
                      "  bp workflow register nightly.json\n  bp workflow list\n"
                      "  bp workflow diff nightly@1 nightly@2\n");
  CLI::App* reg = add(g, "register", "Check a definition and keep it as the newest of its name",
                      "  bp workflow register nightly.json\n", run_workflow_register);
  reg->add_option("FILE", e.file, "JSON (journal.proto: WorkflowDefinition), or -")->required();
  key_option(reg);
  CLI::App* list =
      add(g, "list", "Registered definitions", "  bp workflow list\n", run_workflow_list);
  list->add_option("NAME", options_.id, "Only this name, all versions");
  CLI::App* show =
      add(g, "show", "One definition as JSON",
          "  bp workflow show default\n  bp workflow show nightly@2\n", run_workflow_show);
  show->add_option("NAME", options_.id, "NAME or NAME@VERSION")->required();
  CLI::App* diff = add(g, "diff", "What differs; exit code 1 when something does",
                       "  bp workflow diff nightly@1 nightly@2\n", run_workflow_diff);
  diff->add_option("A", options_.id, "NAME or NAME@VERSION")->required();
  diff->add_option("B", e.other, "The same")->required();

  CLI::App* l =
      group("limit", "How much may run at a time, or start per second, under a key",
            "  bp limit set gpu --concurrency 4\n  bp limit set api --rate 10 --burst 20\n");
  CLI::App* set =
      add(l, "set", "Set or change a limit", "  bp limit set gpu --concurrency 4\n", run_limit_set);
  set->add_option("KEY", e.key, "As in --limit-key, or a stage's limit_keys")->required();
  set->add_option("--concurrency", e.concurrency, "At a time; 0: no bound")->capture_default_str();
  set->add_option("--rate", e.rate_per_s, "Starts per second; 0: no bound")
      ->check(CLI::NonNegativeNumber);
  set->add_option("--burst", e.burst, "Starts at once after a pause");
  key_option(set);
  CLI::App* drop = add(l, "drop", "Take a limit away", "  bp limit drop gpu\n", run_limit_set);
  drop->add_option("KEY", e.key, "Its key")->required();
  key_option(drop);
  add(l, "list", "Limits, what holds them and what waits", "  bp limit list --json\n",
      run_limit_list);
}

void CommandLine::add_schedule_commands() {
  EngineOptions& e = options_.engine;
  CLI::App* g = group("schedule", "Runs that start by the clock",
                      "  bp schedule set nightly --cron '30 4 * * *' --zone Europe/Berlin "
                      "--workflow report\n  bp schedule show nightly\n");
  CLI::App* set = add(g, "set", "Set or change a schedule",
                      "  bp schedule set nightly --cron '30 4 * * MON-FRI' --zone Europe/Berlin "
                      "--workflow report --input kind=full --overlap skip\n",
                      run_schedule_set);
  set->add_option("NAME", e.schedule, "Its name")->required();
  set->add_option("--cron", e.cron, "minute hour day-of-month month day-of-week")->required();
  set->add_option("--zone", e.zone, "IANA time zone; left out: UTC");
  set->add_option("--workflow", options_.workflow, "What it starts")->required();
  set->add_option("--overlap", e.overlap,
                  "While the last run lives: skip, buffer-one, allow, cancel-other")
      ->capture_default_str();
  set->add_option("--catch-up", e.catch_up,
                  "Start the newest missed run if it is late by less than this");
  set->add_flag("--paused", e.paused, "Keep it, but start nothing");
  new_run_options(set);
  key_option(set);
  auto named = [&](const char* name, const char* what, Command run) {
    CLI::App* c = add(g, name, what, ("  bp schedule " + std::string(name) + " nightly\n").c_str(),
                      std::move(run));
    c->add_option("NAME", e.schedule, "Its name")->required();
    return c;
  };
  add(g, "list", "All schedules", "  bp schedule list\n", run_schedule_list);
  named("show", "One schedule and its next times", run_schedule_list)
      ->add_option("--upcoming", e.upcoming, "How many of them")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  key_option(named("trigger", "Start one run now", run_schedule_trigger));
  key_option(named("drop", "Take a schedule away; its runs go on", run_schedule_drop));
}

void CommandLine::add_journal_commands() {
  EngineOptions& e = options_.engine;
  CLI::App* g = group("journal", "The journal as a whole",
                      "  bp journal backup /backup/journal.db\n  bp journal verify journal.db\n"
                      "  bp journal archive old.bpj --ended-before 30d\n");
  auto with_file = [&](const char* name, const char* what, const char* examples, const char* file,
                       Command run) {
    CLI::App* c = add(g, name, what, examples, std::move(run));
    c->add_option("FILE", e.file, file)->required();
    waiting(c);
    return c;
  };
  with_file("backup", "A consistent, verified copy while the daemon works",
            "  bp journal backup /backup/journal.db\n", "File to write", run_journal_backup);
  with_file("export", "The whole journal, or one run's history, to a portable file",
            "  bp journal export all.bpx\n  bp journal export one.bpx --run r12-a1b2c3\n",
            "File to write", run_journal_export)
      ->add_option("--run", options_.id, "Only this run: id or name");
  with_file("import", "Make a journal file of an export, or an archive of one run's",
            "  bp journal import all.bpx journal.db\n", "File to read", run_journal_import)
      ->add_option("TO", e.other, "File to write")
      ->required();
  with_file("verify", "Check the whole chain of a journal file; needs no daemon",
            "  bp journal verify ~/.local/state/bp-daemon/journal.db\n"
            "  bp journal verify backup.db --key journal.pub\n",
            "Journal or backup", run_journal_verify)
      ->add_option("--key", e.public_key,
                   "File with the public key that its seals must verify under");
  with_file("restore", "Put a backup in the place of the journal; no daemon may run",
            "  bp journal restore /backup/journal.db --replace\n", "Backup", run_journal_restore)
      ->add_flag("--replace", e.cancel, "Move the journal that is there aside");
  CLI::App* archive =
      with_file("archive", "Move runs that ended long ago to a file",
                "  bp journal archive old.bpj --ended-before 30d --keep 1000\n",
                "File to write; `bp show ID --archive FILE` opens it", run_journal_archive);
  archive->add_option("--ended-before", e.filter.ended_before, "30d, or a date")->required();
  archive->add_option("--keep", e.keep_newest, "Leave the newest N ended runs");
  waiting(add(g, "check", "Integrity, chain and invariants, while the daemon works",
              "  bp journal check\n", run_journal_check));
  CLI::App* rebuild = add(g, "rebuild-search", "Make the search file anew from the log",
                          "  bp journal rebuild-search\n", run_journal_rebuild_search);
  waiting(rebuild);
  CLI::App* replay = with_id(add(&app_, "replay", "Compute a run anew from its events and compare",
                                 "  bp replay r12-a1b2c3\n", run_replay));
  waiting(replay);
}

}  // namespace bp::cli
