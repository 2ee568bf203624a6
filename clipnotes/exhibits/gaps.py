"""What an exhibit lacks, and the runs that would fill it."""

import shlex
from itertools import product

import pandas as pd

from clipnotes.exhibits.layouts import Layout, layout
from clipnotes.exhibits.tables import exists, listed, measured
from clipnotes.series.notebooks import find


def gaps(table: pd.DataFrame, like: str) -> pd.DataFrame:
    """The cells of an exhibit that lack seeds, as a data frame.

    Its columns are those that name a cell, n (seeds there), seeds (that are lacking: other cells of the row have them, or a run
    that is not complete would bring them), runs (those that are not complete and would fill it) and command (that would).
    """
    what, (rows, keys) = layout(like), measured(table, like)
    seeds = {cell: set(part["seed"].dropna()) for cell, part in rows.groupby(keys, dropna=False)}
    planned = planned_cells(table, what, rows, keys)
    place, found = keys.index(what.across), []
    heads = dict.fromkeys(cell[place] for cell in [*seeds, *planned])
    for row in sorted({cell[:place] + cell[place + 1:] for cell in [*seeds, *planned]}, key=str):
        line = [row[:place] + (head,) + row[place:] for head in heads]
        wanted = set().union(*(seeds.get(cell, ()) for cell in line))
        for cell in line:
            named, coming = dict(zip(keys, cell, strict=True)), planned.get(cell, [])
            lacking = sorted((wanted | {seed for seed, _ in coming if pd.notna(seed)}) - seeds.get(cell, set()))
            if exists(what, named, named[what.across]) and (lacking or cell not in seeds):
                runs = dict.fromkeys(run for seed, run in coming if seed in lacking or cell not in seeds)
                found.append({**named, "n": len(seeds.get(cell, ())), "seeds": lacking, "runs": ", ".join(runs),
                              "command": command(what, named, lacking)})
    return pd.DataFrame(found, columns=[*keys, "n", "seeds", "runs", "command"])


def gap_lines(table: pd.DataFrame, like: str, most: int = 20) -> list[str]:
    """A sentence for each of the first `most` gaps: the cell, the seeds that it lacks, and what would fill it."""
    missing, lines = gaps(table, like), []
    for row in missing.head(most).to_dict("records"):
        filled = f"runs {row['runs']}" if row["runs"] else row["command"]
        seeds = f", seeds {', '.join(map(str, row['seeds']))}" if row["seeds"] else ""
        cell = [f"{key.removeprefix('p_')} {row[key]}" for key in missing.columns[:-4] if row[key] != ""]
        lines.append(f"Missing: {', '.join(cell)}{seeds}; {filled}")
    return lines + [f"... and {len(missing) - most} more cells."] * (len(missing) > most)


def planned_cells(table: pd.DataFrame, what: Layout, rows: pd.DataFrame, keys: list[str]) -> dict[tuple, list[tuple]]:
    """{cell: [(seed, run)]} of the runs that are not complete, by their parameters."""
    planned = {}
    waiting = table[(table["notebook"] == what.notebook) & (table["status"] != "complete")].drop_duplicates("run")
    for run in waiting.to_dict("records"):
        for *cell, seed in product(*(declared(run, key, what, rows) for key in [*keys, "seed"])):
            planned.setdefault(tuple(cell), []).append((seed, f"{run['run']} ({run['status']})"))
    return planned


def declared(run: dict, key: str, what: Layout, rows: pd.DataFrame) -> list:
    """The values of a column that a run would measure, by its parameters; what these do not tell is as in the other rows."""
    names = what.parameters(key)
    told = [(name, run[name]) for name in names if run.get(name) is not None and run[name] == run[name]]
    if key == "method" or not told:
        return list(dict.fromkeys(rows[key]))
    values = [v for name, value in told for v in (listed(value, name) if str(value).startswith("[") else [value])]
    return list(dict.fromkeys((["original"] if key == "features" else []) + values))


def command(what: Layout, cell: dict, seeds: list) -> str:
    """The command line that would measure a cell."""
    lists, values = {parameter.name for parameter in find(what.notebook).parameters if parameter.is_list}, dict(what.off)
    for key in what.drivers:
        parameter = what.parameters(key)[0].removeprefix("p_")
        value = seeds if key == "seed" else [cell.get(key)]
        if key != "method" and value not in ([None], ["original"]):
            values[parameter] = value if parameter in lists else value[0]
    values |= {key.removeprefix("p_"): cell[key] for key in cell if key.startswith("p_")}
    texts = {name: f"[{','.join(map(str, value))}]" if isinstance(value, list) else value for name, value in values.items()}
    pairs = [part for name, text in texts.items() for part in ("-p", f"{name}={text}")]
    return shlex.join(["clipnotes", "run", what.notebook[:2], *pairs])
