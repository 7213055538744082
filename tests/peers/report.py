"""The rows of a run as Markdown and as one HTML page with charts. Nothing but the standard library."""
import html
import math

from harness import readable


def met(row, peer):
    """Whether the row's aim is reached against this peer; None without an aim."""
    if row.get("aim_seconds"):
        return row["tenon"].get("seconds", math.inf) <= row["aim_seconds"]
    if peer is None or row.get("aim") is None or "ratio" not in peer:
        return None
    memory = row.get("aim_memory")
    return peer["ratio"] >= row["aim"] and (memory is None or "memory_ratio" not in peer or peer["memory_ratio"] <= memory)


def spread_text(figure):
    return f" ±{100 * figure['spread']:.0f}%" if figure.get("spread") else ""


def size_text(figure):
    n = figure.get("peak_bytes")
    return "–" if not n else f"{n / 2**30:.2f} GiB" if n >= 1 << 30 else f"{n / 2**20:.0f} MiB"


def aim_text(row):
    if row.get("aim_seconds"):
        return f"≤ {readable(row['aim_seconds'], 's')}"
    if row.get("aim") is None:
        return "–"
    return f"≥ {row['aim']:g}×" + (f", memory ≤ {row['aim_memory']:g}×" if row.get("aim_memory") else "")


def share_text(row):
    if not row.get("share_of_limit"):
        return "–"
    return f"{100 * row['share_of_limit']:.0f}%" + (f" (aim {100 * row['aim_limit']:.0f}%)" if row.get("aim_limit") else "")


HEADER = ("what", "Tenon", "peer", "", "ratio", "aim", "reached", "memory, Tenon / peer", "share of the limit", "checked")


def lines(rows):
    """One tuple for each pair of Tenon and a peer, in HEADER's order."""
    out = []
    for row in rows:
        ours = row["tenon"]
        mine = readable(ours["value"], row["unit"]) + spread_text(ours) if "value" in ours else f"failed: {ours.get('problem', 'no figure')}"
        share = share_text(row)
        for peer in row["peers"] or [None]:
            reached = {True: "yes", False: "**no**", None: "–"}[met(row, peer)]
            if peer is None:
                out.append((row["case"], mine, "–", "", "–", aim_text(row), reached, size_text(ours), share, "–"))
                continue
            version = ", ".join(f"{k} {v}" for k, v in peer.get("versions", {}).items())
            if "ratio" in peer:
                memory = f"{size_text(ours)} / {size_text(peer)}" + (f" = {peer['memory_ratio']:.2f}×" if "memory_ratio" in peer else "")
                theirs, ratio = readable(peer["value"], row["unit"]) + spread_text(peer), f"{peer['ratio']:.2f}×"
            else:
                memory, theirs, ratio = "–", f"failed: {peer.get('problem', 'Tenon has no figure')}", "–"
            out.append((row["case"], mine, peer["name"] + (f" ({version})" if version else ""), theirs, ratio, aim_text(row), reached, memory, share,
                        peer.get("check") or "–"))
    return out


def markdown(rows, machine):
    text = ["# Tenon beside its peers", "", machine["text"], "",
            "A ratio above 1 means that Tenon is faster; memory is the resident peak of the whole process, and below 1 Tenon's is smaller. ± is half of the middle "
            "half's width. The limit is the longer of the bytes that the work must move at the measured bandwidth and its operations at the measured speed of products.", ""]
    if any(r.get("quick") for r in rows):
        text += ["**Small sizes and two turns (`--quick`): this shows that the comparisons work and measures nothing.**", ""]
    text += ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    text += ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines(rows)]
    missed = [(r, p) for r in rows for p in (r["peers"] or [None]) if met(r, p) is False]
    if missed:
        text += ["", "## Aims not reached", ""]
        for row, peer in missed:
            if row.get("aim_seconds"):
                text.append(f"- {row['case']}: {readable(row['tenon'].get('seconds', math.inf), 's')}, aim {aim_text(row)}")
            elif peer["ratio"] < row["aim"]:
                text.append(f"- {row['case']}, {peer['name']}: {peer['ratio']:.2f}× of {row['aim']:g}×, short by {100 * (1 - peer['ratio'] / row['aim']):.0f}%")
            else:
                text.append(f"- {row['case']}, {peer['name']}: memory {peer['memory_ratio']:.2f}× of {row['aim_memory']:g}×")
    below = [r for r in rows if r.get("aim_limit") and r.get("share_of_limit") and r["share_of_limit"] < r["aim_limit"]]
    if below:
        text += ["", "## Below their share of the limit", ""] + [f"- {r['case']}: {share_text(r)}" for r in below]
    failed = [(r["case"], p["name"], p["problem"]) for r in rows for p in r["peers"] if p.get("problem")]
    failed += [(r["case"], "tenon", r["tenon"]["problem"]) for r in rows if r["tenon"].get("problem")]
    if failed:
        text += ["", "## Without a figure", ""] + [f"- {case}, {name}: {problem}" for case, name, problem in failed]
    return "\n".join(text) + "\n"


def summary(rows):
    """A line for each case: Tenon beside the fastest of its peers. What README.md shows."""
    text = ["| what | Tenon | the fastest peer | | faster | memory of both |", "|---|---|---|---|---|---|"]
    for row in rows:
        beaten = [p for p in row["peers"] if "ratio" in p]
        if not beaten or "value" not in row["tenon"]:
            continue
        peer = min(beaten, key=lambda p: p["ratio"])
        memory = f"{size_text(row['tenon'])} / {size_text(peer)}" if "memory_ratio" in peer else "–"
        text.append(f"| {row['case']} | {readable(row['tenon']['value'], row['unit'])} | {peer['name']} | {readable(peer['value'], row['unit'])} | "
                    f"{peer['ratio']:.{0 if peer['ratio'] >= 10 else 2}f}× | {memory} |")
    return "\n".join(text) + "\n"


def chart(rows):
    """Ratios as bars on a logarithmic axis, the aim as a mark. SVG."""
    pairs = [(r, p) for r in rows for p in r["peers"] if "ratio" in p]
    if not pairs:
        return ""
    low, high = min(0.5, *(p["ratio"] for _, p in pairs)), max(2.0, *(max(p["ratio"], r.get("aim") or 0) for r, p in pairs))
    left, width, step = 430, 560, 24

    def x(ratio):
        return left + width * (math.log(ratio) - math.log(low)) / (math.log(high) - math.log(low))

    height = 40 + step * len(pairs)
    out = [f'<svg viewBox="0 0 {left + width + 90} {height}" role="img" aria-label="Ratios of Tenon to its peers">']
    for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200):
        if low <= tick <= high:
            out.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="24" y2="{height}" class="{"one" if tick == 1 else "grid"}"/>'
                       f'<text x="{x(tick):.1f}" y="16" class="tick">{tick:g}×</text>')
    for i, (row, peer) in enumerate(pairs):
        y = 32 + step * i
        begin, end = sorted((x(1), x(peer["ratio"])))
        kind = {True: "reached", False: "missed", None: "free"}[met(row, peer)]
        label = max(end, x(1), x(row["aim"]) if row.get("aim") else 0) + 5
        out.append(f'<text x="{left - 8}" y="{y + 12}" class="name">{html.escape(row["case"])} · {html.escape(peer["name"])}</text>'
                   f'<rect x="{begin:.1f}" y="{y}" width="{max(end - begin, 1.5):.1f}" height="15" class="{kind}"/>'
                   f'<text x="{label:.1f}" y="{y + 12}" class="value">{peer["ratio"]:.2f}×</text>')
        if row.get("aim"):
            out.append(f'<line x1="{x(row["aim"]):.1f}" x2="{x(row["aim"]):.1f}" y1="{y - 2}" y2="{y + 17}" class="aim"/>')
    return "".join(out) + "</svg>"


def shares(rows):
    """How much of the physical limit each row reaches. SVG."""
    found = [r for r in rows if r.get("share_of_limit")]
    if not found:
        return ""
    left, width, step = 430, 560, 24
    most = max(1.0, *(r["share_of_limit"] for r in found))
    out = [f'<svg viewBox="0 0 {left + width + 90} {20 + step * len(found)}" role="img" aria-label="Shares of the physical limit">']
    for i, row in enumerate(found):
        y, end = 10 + step * i, left + width * row["share_of_limit"] / most
        out.append(f'<text x="{left - 8}" y="{y + 12}" class="name">{html.escape(row["case"])}</text><rect x="{left}" y="{y}" width="{end - left:.1f}" height="15" class="free"/>'
                   f'<text x="{end + 5:.1f}" y="{y + 12}" class="value">{100 * row["share_of_limit"]:.0f}%</text>')
    out.append(f'<line x1="{left + width / most:.1f}" x2="{left + width / most:.1f}" y1="0" y2="{20 + step * len(found)}" class="one"/>')
    return "".join(out) + "</svg>"


STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;color:#1d2330;background:#fff}
table{border-collapse:collapse;font-size:13px}th,td{border-bottom:1px solid #d8dce4;padding:.3rem .5rem;text-align:left;vertical-align:top}
svg{width:100%;font:12px system-ui,sans-serif}.name{text-anchor:end;fill:currentColor}.tick{text-anchor:middle;fill:#667}.value{fill:currentColor}
.grid{stroke:#e4e7ee}.one{stroke:#667}.aim{stroke:#1d2330;stroke-width:2}.reached{fill:#2f8f6b}.missed{fill:#c8553d}.free{fill:#5b7db1}.wide{overflow-x:auto}
@media(prefers-color-scheme:dark){body{color:#e6e8ee;background:#14171d}th,td{border-color:#343a46}.grid{stroke:#2a2f3a}.aim{stroke:#e6e8ee}}"""


def page(rows, machine):
    def cell(text):
        bold = text.startswith("**")
        text = html.escape(text.strip("*"))
        return f"<td>{'<strong>' + text + '</strong>' if bold else text}</td>"

    head = "".join(f"<th>{html.escape(h)}</th>" for h in HEADER)
    body = "".join("<tr>" + "".join(cell(c) for c in line) + "</tr>" for line in lines(rows))
    quick = "<p><strong>Small sizes and two turns: this measures nothing.</strong></p>" if any(r.get("quick") for r in rows) else ""
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Tenon beside its peers</title>'
            f"<style>{STYLE}</style><h1>Tenon beside its peers</h1><p>{html.escape(machine['text'])}</p>{quick}"
            f"<h2>Ratios</h2><p>Right of 1× Tenon is faster; the mark is the aim.</p>{chart(rows)}<h2>Share of the physical limit</h2>{shares(rows)}"
            f'<h2>Figures</h2><div class="wide"><table><tr>{head}</tr>{body}</table></div></html>\n')
