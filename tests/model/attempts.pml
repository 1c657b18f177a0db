/* The protocol of attempts: one run with one stage, a daemon that crashes, hosts that die, messages
 * that are lost, late or doubled. Mapping to the code: README.md. Checked by run.sh, which also
 * checks that each mutation (-DMUT_name) is refuted. */

#ifndef CRASHES
#define CRASHES 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef LOSSES
#define LOSSES 1
#endif
#define POOL 2              /* hosts 0 and 1 are shared */
#define HOSTS 8             /* the own host of epoch e is OWN(e) */
#define OWN(e) (e + 1)
#define NOBODY 255

mtype = { nothing, queued, running, done };
mtype = { m_run, m_ack, m_result, m_hello };

#ifdef MUT_OLD_LIFE_HEARD
#define OF_THIS_LIFE(h, l) true
#else
#define OF_THIS_LIFE(h, l) (l >= heard_life[h])
#endif
#ifdef MUT_ACCEPT_OLD_EPOCH
#define CURRENT(e) (e <= v_epoch)
#else
#define CURRENT(e) (e == v_epoch)
#endif
#ifdef MUT_RESEND_UNGREETED
#define SPOKE(h) true
#else
#define SPOKE(h) (!alive[h] || greeted[h])
#endif
#ifdef MUT_HELLO_OF_THE_DEAD
#define HELLO_COUNTS(h) true
#else
#define HELLO_COUNTS(h) alive[h]
#endif
/* After a start nobody knows which shared host was sent the attempt: all that live must have said what
 * they hold before it is sent again. */
#define POOL_SPOKE (SPOKE(0) && SPOKE(1))
#define HELD_BY(h, e) (alive[h] && greeted[h] && held[h] == e)
#define MAY_BE_SENT_TO(h, e) (alive[h] && !killed[h] && greeted[h] && (sent_to == h || (sent_to == NOBODY && POOL_SPOKE && !HELD_BY(0, e) && !HELD_BY(1, e))))

/* ---- durable: the journal ---- */
mtype d_state = nothing;
byte d_epoch = 0, d_done_by = 0;
bool d_own = false, d_identity = false;
byte runs_made = 0;

/* ---- the world ---- */
bool alive[HOSTS], killed[HOSTS];
byte holds[HOSTS];        /* epoch of the attempt it has, 0: none */
byte over[HOSTS];         /* newest epoch that it ended and forgot */
bool acting[HOSTS], ready[HOSTS];
byte heard_life[HOSTS];   /* newest daemon that it greeted */
byte applied = 0;         /* how often the effect was brought about */
byte life = 0;            /* of the daemon */
bool up = false;
byte crashes = 0, deaths = 0, losses = 0;
bool used[HOSTS];         /* epochs that were acted on */
bool client_acked = false;
bool submitted = false;   /* the client's request lies at the socket */

chan to_host[HOSTS] = [2] of { mtype, byte, byte };   /* what, epoch, life of the daemon that said it */
chan to_daemon = [3] of { mtype, byte, byte };        /* what, host, epoch */

/* A full queue, or a broken connection, drops. */
inline tell_host(h, what, e) {
  if
  :: nfull(to_host[h]) -> to_host[h]!what(e, life)
  :: full(to_host[h]) -> skip
  :: losses < LOSSES -> losses++
  fi
}
inline tell_daemon(what, h, e) {
  if
  :: up && nfull(to_daemon) -> to_daemon!what(h, e)
  :: !up || full(to_daemon) -> skip
  :: losses < LOSSES -> losses++
  fi
}
inline dies(h) { alive[h] = false; acting[h] = false; holds[h] = 0; ready[h] = false }

bool greeted[HOSTS];      /* known to the daemon, in this life of it */

/* ---- a stage host, and the plugin in it ---- */
proctype Host(byte h) {
  byte e, l, other; bool found;
end:
  do
  :: atomic { killed[h] && alive[h] -> dies(h) }
  :: atomic { alive[h] && !killed[h] && deaths < DEATHS && holds[h] != 0 -> deaths++; dies(h) }
  /* hello, until it is acknowledged */
  :: atomic { alive[h] && !killed[h] && up && !greeted[h] && !(to_daemon??[m_hello, eval(h), _]) && nfull(to_daemon) ->
       heard_life[h] = life; tell_daemon(m_hello, h, holds[h]) }
  /* Messages may overtake each other: two connections, or a retransmission. What an older daemon said
     may still arrive after the newer one was greeted. */
  :: atomic { alive[h] && !killed[h] && to_host[h]??[m_run, _, _] ->
       to_host[h]??m_run(e, l);
       if
       :: holds[h] == 0 && e > over[h] && OF_THIS_LIFE(h, l) ->
          holds[h] = e; acting[h] = true; ready[h] = false;
          /* Nobody else may be at work on the same effect. */
          other = 0;
          do
          :: other < HOSTS -> assert(other == h || !alive[other] || !acting[other]); other++
          :: else -> break
          od;
          other = 0
       :: else
       fi }
  :: atomic { alive[h] && !killed[h] && to_host[h]??[m_ack, _, _] ->
       to_host[h]??m_ack(e, l);
       if
       :: ready[h] && e == holds[h] ->
          /* A result that may be forgotten is on record, or was fenced by a newer attempt. */
          assert(d_done_by == e || d_epoch > e);
          over[h] = e; holds[h] = 0; ready[h] = false;
          if :: h >= POOL -> alive[h] = false :: else fi
       :: else
       fi }
  /* The plugin: looks whether its effect exists, and makes it if not. Not one step. */
  :: atomic { alive[h] && !killed[h] && acting[h] -> found = (applied > 0) };
     atomic {
       if
       :: alive[h] && acting[h] ->
          if :: !found -> applied++; assert(applied <= 1) :: else fi;
          acting[h] = false; ready[h] = true
       :: else
       fi;
       found = false }
  :: atomic { alive[h] && !killed[h] && ready[h] && up && !(to_daemon??[m_result, eval(h), eval(holds[h])]) && nfull(to_daemon) ->
       tell_daemon(m_result, h, holds[h]) }
  od
}

/* ---- the daemon ---- */
/* Applied, not yet durable. */
mtype v_state; byte v_epoch, v_done_by; bool v_own, v_identity;
byte sent_to = NOBODY;   /* the shared host that has the current attempt, as far as is known */
byte held[HOSTS];        /* what its hello said */

inline commit() {
  d_state = v_state; d_epoch = v_epoch; d_done_by = v_done_by; d_own = v_own; d_identity = v_identity
}
inline load() {
  v_state = d_state; v_epoch = d_epoch; v_done_by = d_done_by; v_own = d_own; v_identity = d_identity
}
/* Dies here, perhaps. What the journal does not have is gone. */
#define MAY_CRASH if :: crashes < CRASHES -> goto crash :: skip fi

/* Only what is on record may be acted on. */
inline send_run(h) {
  assert(d_epoch >= v_epoch && d_state != nothing);
  tell_host(h, m_run, v_epoch)
}
#ifdef MUT_EPOCH_REUSED
#define NEXT(e) e
#else
#define NEXT(e) (e + 1)
#endif
/* One epoch, one attempt. */
inline begins() { assert(!used[v_epoch]); used[v_epoch] = true }
inline new_attempt() { v_epoch = NEXT(v_epoch); v_state = queued; v_identity = false; v_done_by = 0; sent_to = NOBODY }

proctype Daemon() {
  byte h, e;
start:
  atomic {
    life++; load(); up = true; sent_to = NOBODY;
    h = 0;
    do :: h < HOSTS -> greeted[h] = false; held[h] = 0; h++ :: else -> break od;
    h = 0
  }
end:
  do
  /* submit: one key, one run */
  :: atomic { submitted ->
       submitted = false;
       if
       :: v_state == nothing -> v_state = queued; v_epoch = 1; v_own = false; runs_made++;
#ifdef MUT_ACK_SUBMIT_EARLY
          client_acked = true
#endif
       :: else -> client_acked = (d_state != nothing); goto again
       fi };
     MAY_CRASH;
     atomic { commit() };
     MAY_CRASH;
     atomic { client_acked = true }

  /* dispatch on the pool: RUNNING in the event itself, no host on record */
  :: atomic { v_state == queued && !v_own && (alive[0] || alive[1]) ->
       v_state = running;
       if :: greeted[0] && alive[0] -> sent_to = 0 :: greeted[1] && alive[1] -> sent_to = 1 :: else fi;
#ifdef MUT_ACT_BEFORE_COMMIT
       if :: sent_to != NOBODY -> send_run(sent_to) :: else fi
#endif
     };
     MAY_CRASH;
     atomic { commit() };
     MAY_CRASH;
     atomic { begins(); if :: sent_to != NOBODY -> send_run(sent_to) :: else fi }
  :: atomic { v_state == queued && !v_own && !alive[0] && !alive[1] -> v_own = true; goto again }

  /* dispatch in a process of its own: record, start, record its identity, send */
  :: atomic { v_state == queued && v_own -> v_state = running; v_identity = false };
#ifdef MUT_SPAWN_BEFORE_COMMIT
     atomic { assert(!alive[OWN(v_epoch)]); alive[OWN(v_epoch)] = true };
#endif
     MAY_CRASH;
     atomic { commit() };
     MAY_CRASH;
     atomic {
       begins(); assert(d_epoch >= v_epoch && d_state == running);
       assert(!alive[OWN(v_epoch)]);   /* no host that nobody knows of */
       alive[OWN(v_epoch)] = true
     };
     MAY_CRASH;
     atomic { v_identity = true };
     MAY_CRASH;
     atomic { commit() }

  /* hello; one that was sent by a host that has died since says nothing */
  :: atomic { to_daemon?[m_hello, _, _] -> to_daemon?m_hello(h, e);
       if
       :: HELLO_COUNTS(h) ->
          greeted[h] = true; held[h] = e;
          if
          :: h < POOL && e != 0 && e == v_epoch && !v_own -> sent_to = h
          :: else
          fi
       :: else
       fi }

  /* send (again): on record as running, and nobody has it */
  :: atomic { v_state == running && d_state == running && !v_own && MAY_BE_SENT_TO(0, v_epoch) && held[0] != v_epoch && empty(to_host[0]) ->
       sent_to = 0; send_run(0) }
  :: atomic { v_state == running && d_state == running && !v_own && MAY_BE_SENT_TO(1, v_epoch) && held[1] != v_epoch && empty(to_host[1]) ->
       sent_to = 1; send_run(1) }
  :: atomic { v_state == running && d_state == running && v_own && d_identity && greeted[OWN(v_epoch)] && alive[OWN(v_epoch)] && held[OWN(v_epoch)] != v_epoch && empty(to_host[OWN(v_epoch)]) ->
       send_run(OWN(v_epoch)) }

  /* after a crash: an own host without identity on record; found by its host id, or never started */
  :: atomic { v_state == running && d_state == running && v_own && !v_identity && alive[OWN(v_epoch)] -> v_identity = true };
     MAY_CRASH;
     atomic { commit() }
  :: atomic { v_state == running && d_state == running && v_own && !alive[OWN(v_epoch)] -> new_attempt() };
     MAY_CRASH;
     atomic { commit() }

  /* the shared host that had it is proven dead: it runs again in a process of its own */
  :: atomic { v_state == running && d_state == running && !v_own && sent_to != NOBODY && !alive[sent_to] -> new_attempt(); v_own = true };
     MAY_CRASH;
     atomic { commit() }
  :: atomic { v_state == running && d_state == running && !v_own && !alive[0] && !alive[1] -> new_attempt(); v_own = true };
     MAY_CRASH;
     atomic { commit() }

  /* it takes too long: kill it, and wait for the proof of death */
  :: atomic { v_state == running && d_state == running && deaths < DEATHS && v_own && alive[OWN(v_epoch)] && !killed[OWN(v_epoch)] ->
       deaths++; killed[OWN(v_epoch)] = true;
#ifdef MUT_RETRY_BEFORE_DEATH
       new_attempt()
#endif
     };
#ifdef MUT_RETRY_BEFORE_DEATH
     MAY_CRASH;
     atomic { commit() }
#endif

  /* a result */
  :: atomic { to_daemon?[m_result, _, _] -> to_daemon?m_result(h, e);
       if
       :: v_state == running && CURRENT(e) -> v_state = done; v_done_by = e;
#ifdef MUT_ACK_BEFORE_COMMIT
          tell_host(h, m_ack, e)
#endif
       :: else -> /* a repetition, or fenced: nothing changes, but it may be forgotten */
          if :: d_done_by == e || d_epoch > e -> tell_host(h, m_ack, e) :: else fi;
          goto again
       fi };
     MAY_CRASH;
     atomic { commit(); assert(d_done_by == d_epoch) };
     MAY_CRASH;
     atomic { tell_host(h, m_ack, e) }

  :: crashes < CRASHES -> goto crash
  :: false ->
again: skip
  od;
crash:
  atomic {
    crashes++; up = false;
    do :: to_daemon?_,_,_ :: empty(to_daemon) -> break od;
    /* what it sent may still arrive, or not */
    h = 0;
    do
    :: h < HOSTS ->
       if
       :: nempty(to_host[h]) -> do :: to_host[h]?_,_,_ :: empty(to_host[h]) -> break od
       :: skip
       fi; h++
    :: else -> break
    od;
    /* what was promised to the client is on record */
    assert(!client_acked || d_state != nothing);
    runs_made = (d_state == nothing -> 0 : 1);
    h = 0; e = 0
  };
  goto start
}

/* asks again under the same key until it is answered */
proctype Client() {
  do
  :: atomic { !client_acked && !submitted && up -> submitted = true; assert(runs_made <= 1) }
  :: atomic { client_acked -> break }
  od
}

/* When nobody can do anything any more, the run has ended and the client knows. */
proctype Monitor() {
  timeout -> assert(d_state == done && client_acked)
}

init {
  atomic {
    byte i = 0;
#ifndef OWN_ONLY
    alive[0] = true; alive[1] = true;
#endif
    do :: i < HOSTS -> run Host(i); i++ :: else -> break od;
    run Daemon();
    run Client();
    run Monitor()
  }
}
