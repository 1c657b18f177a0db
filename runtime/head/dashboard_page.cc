#include "runtime/head/status_pages.h"

namespace bp::rt {

const char* const kDashboardPage = R"html(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>bp-head</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222;background:#fafafa}
h1{font-size:1.4rem;margin:0}
.sub{color:#666}
.cards{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.2rem 0}
.card{background:#fff;border:1px solid #ddd;border-radius:.5rem;padding:.6rem 1rem;min-width:8rem}
.card b{display:block;font-size:1.3rem;font-weight:600}
table{border-collapse:collapse;width:100%;background:#fff}
th,td{text-align:left;padding:.35rem .7rem;border-bottom:1px solid #e5e5e5}
.ok{color:#137333}.bad{color:#b3261e}
@media (prefers-color-scheme:dark){body{background:#161616;color:#ddd}.card,table{background:#202020;border-color:#333}
th,td{border-color:#333}.ok{color:#7bd88f}.bad{color:#ff8a80}.sub{color:#999}}
</style></head><body>
<h1 id="name">bp-head</h1><div class="sub" id="about"></div>
<div class="cards" id="cards"></div>
<p class="bad" id="error"></p>
<table><thead><tr><th>rank</th><th>tp</th><th>pp</th><th>node</th>
<th>layers</th><th>pid</th><th>state</th><th>weights</th></tr></thead>
<tbody id="ranks"></tbody></table>
<script>
const at=id=>document.getElementById(id);
function card(title,value,kind){const d=document.createElement('div');d.className='card';
 const b=document.createElement('b');b.textContent=value;if(kind)b.className=kind;d.append(b,title);return d}
function row(cells){const tr=document.createElement('tr');for(const c of cells){const td=document.createElement('td');
 td.textContent=c??'';tr.append(td)}return tr}
async function tick(){
 try{const s=await(await fetch('/state')).json();
  document.title=s.deployment+' - bp-head';at('name').textContent=s.deployment;
  at('about').textContent=[s.model,'TP '+s.tp+' x PP '+s.pp,s.device,s.endpoint,
   'run '+s.run_id,'group '+s.group_epoch].join(' \u00b7 ');
  at('cards').replaceChildren(
   card('state',s.draining?'draining':s.ready?'ready':s.serving?'serving':'not serving',s.ready?'ok':'bad'),
   card('ranks',s.ranks_loaded+' / '+s.ranks_expected),
   card('last token',s.last_token_age_ms<0?'none':(s.last_token_age_ms/1000).toFixed(1)+' s'),
   card('running',s.sequences_running),card('waiting',s.sequences_waiting),
   card('generated',s.generated_tokens),card('KV blocks free',s.kv_blocks_free+' / '+s.kv_blocks),
   card('uptime',s.uptime_s+' s'));
  at('error').textContent=s.group_error||'';
  at('ranks').replaceChildren(...s.ranks.map(r=>row([r.rank,r.tp_rank,r.pp_rank,r.node,r.layers,r.pid,r.state,
   r.bytes_total?(100*r.bytes_loaded/r.bytes_total).toFixed(0)+' %':''])));
 }catch(e){at('error').textContent='bp-head does not answer'}
 setTimeout(tick,1000)}
tick();
</script></body></html>
)html";

}  // namespace bp::rt
