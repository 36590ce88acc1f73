// Settings of Node-RED for openenergy's flows; everything left out has its default.
module.exports = {
    flowFile: "flows.json",
    // The editor can run any program: for this machine alone. From elsewhere: ssh -L 1880:127.0.0.1:1880
    uiHost: "127.0.0.1",
    uiPort: process.env.PORT || 1880,
    // Sampling periods, which devices tell only when they start, outlive a restart.
    contextStorage: { default: { module: "localfilesystem" } },
    // What runs here is what package-lock.json names.
    externalModules: { autoInstall: false, palette: { allowInstall: false } },
    telemetry: { enabled: false, updateNotification: false },
    logging: { console: { level: "info", metrics: false, audit: false } },
};
