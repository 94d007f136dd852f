"""The page of a deployment's state: plain HTML, no script, nothing from elsewhere; all values are escaped."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="10">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>FedMerge: {{ status.address }}</title>
<style>
:root { color-scheme: light dark; --line: #8884; --good: #18794e; --bad: #c62a2f; --wait: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --good: #4cc38a; --bad: #ff8589; --wait: #f0c000; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0 0 .2rem } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem }
p { margin: .2rem 0 } small, .quiet { color: GrayText }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top;
  padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere }
th { font-weight: 600 } .number { text-align: right; font-variant-numeric: tabular-nums }
.good { color: var(--good) } .bad { color: var(--bad) } .wait { color: var(--wait) }
.bar { background: var(--line); height: .5rem; width: 9rem; border-radius: .25rem; overflow: hidden }
.bar i { display: block; height: 100%; background: var(--good) } code { font-size: .9em; overflow-wrap: anywhere }
</style></head><body>
<h1>Deployment at {{ status.address }}</h1>
<p>{% if status.up %}<b class="good">up</b>{% else %}<b class="bad">down</b>{% endif %}
{%- if status.said %}: {{ status.said }}{% endif %}</p>
<p class="quiet">{{ status.at }} (UTC), anew every ten seconds</p>
{% if status.waiting %}<p class="wait">waiting for approval by: {{ status.waiting | join(", ") }}</p>{% endif %}
<h2>Hospitals</h2>
{% if status.hospitals %}<table><tr><th>hospital<th>state<th>last sign of life<th class="number">last round
<th class="number">failures</tr>
{% for each in status.hospitals %}<tr><td>{{ each.name }}
<td class="{{ 'good' if each.status == 'online' else 'bad' if each.status == 'offline' else 'quiet' }}">
{{- 'never came' if each.status == 'registered' else each.status }}<td>{{ ago(each.ago) }}
<td class="number">{{ each.round if each.round is not none else "–" }}
<td class="number {{ 'bad' if each.failures }}">{{ each.failures }}</tr>
{% endfor %}</table>{% else %}<p>None was admitted yet.</p>{% endif %}
<h2>Runs</h2>
{% if status.runs %}<table><tr><th>run<th>state<th>progress<th>last change</tr>
{% for run in status.runs %}<tr><td>{{ run.folder }}<br><small>{{ run.run }}</small>
<td><b class="{{ {'finished': 'good', 'running': 'good', 'failed': 'bad', 'killed': 'bad'}.get(run.state, 'wait') }}">
{{- run.words }}</b>{% if run.reason %}<br>{{ run.reason }}{% endif %}
{%- if run.again %}<br><code>{{ run.again }}</code>{% endif %}
<td>{% if run.progress is not none %}<div class="bar"><i style="width: {{ (100 * run.progress) | round | int }}%">
</i></div><small>{{ (100 * run.progress) | round | int }} % of {{ run.rounds }} rounds</small>{% else %}–{% endif %}
<td>{{ run.changed or run.submitted }}</tr>
{% endfor %}</table>
{% set last = status.runs[0] %}{% if last.failures %}<h2>Failures of hospitals in the latest run
({{ last.failed }})</h2><table><tr><th>hospital<th>where<th>why<th>then</tr>
{% for row in last.failures | reverse %}<tr><td>{{ row.site }}<td>round {{ row.round }} ({{ row.phase }})
<td>{{ row.reason }}<td>{{ row.then }}</tr>
{% endfor %}</table>{% endif %}{% else %}<p>None yet.</p>{% endif %}
<h2>Certificates</h2>
<table><tr><th>file<th>ends<th class="number">days left</tr>
{% for each in status.expiries %}<tr><td>{{ each.what }}<td>{{ each.until }}
<td class="number {{ 'bad' if each.days < 60 }}">{{ each.days }}</tr>
{% endfor %}</table>
<p class="quiet"><a href="/status.json">JSON</a> · <a href="/metrics">Prometheus</a></p>
</body></html>
"""
