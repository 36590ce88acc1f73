// What Grafana's own code makes of time ranges and transformations: asked in JSON on standard input,
// answered on standard output, by version.

const newest = require("grafana-13");
globalThis.window = globalThis; // which version 10 wants, and version 13 takes for a browser
globalThis.navigator ??= { languages: ["en"] };
const oldest = require("grafana-10");

const VERSIONS = { "10.4.19": oldest, "13.2.3": newest };

// As applyPanelTimeOverrides does (public/app/features/dashboard/utils/panel.ts); null: "invalid".
function range({ dateMath, rangeUtil }, { now, shown, timeFrom, timeShift }) {
    Date.now = () => now;
    let [from, to] = [dateMath.parse(shown), dateMath.parse("now")];
    if (timeFrom) {
        const text = rangeUtil.describeTextRange(timeFrom);
        [from, to] = text.invalid ? [] : [dateMath.parse(text.from), dateMath.parse(text.to)];
    }
    if (timeShift && !rangeUtil.describeTextRange(timeShift).invalid) {
        [from, to] = [[from, false], [to, true]].map(([time, roundUp]) =>
            dateMath.parseDateMath(`-${timeShift}`, time, roundUp));
    }
    return from && to ? [from.valueOf(), to.valueOf()] : null;
}

function register({ standardTransformers, standardTransformersRegistry }, isLoadedLater) {
    const all = new Map(Object.values(standardTransformers).map((each) => [each.id, each]));
    standardTransformersRegistry.setInit(() => [...all.values()].map((each) => ({
        id: each.id,
        name: each.name,
        transformation: isLoadedLater ? async () => each : each,
    })));
}

// Columns of all frames, after the transformations, with the overrides that each is under.
async function columns(data, { transformations, overrides, frames }) {
    const given = frames.map((frame) => data.toDataFrame(frame));
    const context = { interpolate: (text) => text };
    const made = await new Promise((resolve, reject) =>
        data.transformDataFrame(transformations, given, context).subscribe({ next: resolve, error: reject }));
    const isUnder = overrides.map((name) => [name, data.fieldMatchers.get("byName").get(name)]);
    return made.flatMap((frame) => frame.fields.map((field) => ({
        name: data.getFieldDisplayName(field, frame, made),
        overrides: isUnder.filter(([, matches]) => matches(field, frame, made)).map(([name]) => name),
        values: Array.from(field.values),
    })));
}

function units({ getValueFormats }) {
    return getValueFormats().flatMap((group) => group.submenu.map((unit) => unit.value));
}

async function main() {
    const asked = JSON.parse(require("fs").readFileSync(0, "utf8"));
    const answer = {};
    for (const [version, data] of Object.entries(VERSIONS)) {
        answer[version] = {
            ranges: asked.ranges.map((each) => range(data, each)),
            panels: await Promise.all(asked.panels.map((each) => columns(data, each))),
            units: units(data),
        };
    }
    process.stdout.write(JSON.stringify(answer));
}

register(oldest, false);
register(newest, true);
main();
