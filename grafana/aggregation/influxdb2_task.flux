// InfluxDB 2.x: the quarter hours that long ranges are read from, every five minutes.
// The same as influxdb1_continuous_queries.iql; its names and types checked by Flux's own compiler
// (npm @influxdata/flux-lsp-node 0.8.40), but not run on a real InfluxDB 2.
// In its web page: Tasks, Create Task, paste. Change "energy" if your bucket has another name.
import "date"

option task = {name: "quarter_hour", every: 5m}

// What arrives up to an hour late is taken in. For the rest make a second task of it, which runs every
// night: another name, every: 1d, and here -8d (longer once after a longer outage).
start = date.truncate(t: -1h, unit: 15m)

minutes = (quantity) =>
    from(bucket: "energy")
        |> range(start: start)
        |> filter(fn: (r) => r._measurement == quantity and r._field == quantity and exists r.switch)
        // Before group(), so that the storage does it, and need not hand over every reading.
        |> aggregateWindow(every: 1m, fn: mean, createEmpty: false, timeSrc: "_start")
        |> group(columns: ["switch"])

store = (tables=<-, field) =>
    tables
        |> set(key: "_measurement", value: "quarter_hour")
        |> set(key: "_field", value: field)
        |> to(bucket: "energy", tagColumns: ["switch"])

quarters = (tables=<-, fn) =>
    tables
        |> aggregateWindow(every: 15m, fn: fn, createEmpty: false, timeSrc: "_start")

sixtieth = (tables=<-) => tables |> map(fn: (r) => ({r with _value: r._value / 60.0}))

minutes(quantity: "power") |> quarters(fn: sum) |> sixtieth() |> store(field: "consumption")
minutes(quantity: "power") |> quarters(fn: min) |> store(field: "power_min")
minutes(quantity: "power") |> quarters(fn: max) |> store(field: "power_max")
minutes(quantity: "power")
    |> quarters(fn: count)
    |> map(fn: (r) => ({r with _value: float(v: r._value)}))
    |> store(field: "minutes")
minutes(quantity: "relay") |> quarters(fn: sum) |> sixtieth() |> store(field: "on_hours")
minutes(quantity: "average_power") |> quarters(fn: mean) |> store(field: "average_power")
minutes(quantity: "temperature") |> quarters(fn: mean) |> store(field: "temperature")
