"""Write dashboards, alerts and continuous queries: `python -m grafana.generate [PLUG...]`.

With names of plugs, the dashboard "Now" has buttons for each of them, else for the one that is
chosen on top.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from grafana.source import alerts, chain, energy, lorawan, now, plug, queries
from grafana.source.panels import Json
from openenergy import topics

FOLDER: Final = Path(__file__).resolve().parent
DATABASE: Final = "energy"


def dashboards(plugs: Sequence[str] = ()) -> dict[str, Json]:
    """Return the dashboards by the names of their files."""
    return {
        "now": now.build(plugs),
        "energy": energy.build(),
        "plug": plug.build(),
        "lorawan": lorawan.build(),
        "chain": chain.build(),
    }


def statements() -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each file of InfluxQL, and its statements."""
    yield "influxdb1_continuous_queries.iql", queries.continuous_queries(DATABASE)
    past = "time >= '2020-01-01' AND time < now()"
    yield (
        "influxdb1_backfill.iql",
        [queries.quarter_hours(source, past) for source in queries.AGGREGATES],
    )


def files(plugs: Sequence[str] = ()) -> dict[Path, str]:
    """Return every generated file with its content."""
    texts = {
        FOLDER / "dashboards" / f"{name}.json": _json(content)
        for name, content in dashboards(plugs).items()
    }
    texts[FOLDER / "provisioning" / "alerting" / "openenergy.json"] = _json(alerts.build())
    for name, lines in statements():
        # The influx client sends what it reads from a file as one.
        texts[FOLDER / "aggregation" / name] = ";\n".join(lines) + "\n"
    return texts


def _json(content: Json) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser("python -m grafana.generate", description=__doc__)
    parser.add_argument("plugs", metavar="PLUG", nargs="*", help="name of a plug with buttons")
    arguments = parser.parse_args()
    for name in arguments.plugs:
        if not topics.is_name(name):
            parser.error(f"{name!r}: a plug's name is {topics.NAME_EXPECTED}")
    for path, text in files(arguments.plugs).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
