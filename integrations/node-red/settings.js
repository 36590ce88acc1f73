// Settings of Node-RED for openenergy's flows; everything left out has its default.

// Whoever reaches the editor can run any program here, and Node-RED lets in every web page that is open
// in a browser which reaches it (Access-Control-Allow-Origin: *). Here it lets in its own alone: others
// come from elsewhere, or by a name of theirs that leads here (DNS rebinding).
function isOurs({ headers }) {
    const isHere = /^(localhost|127\.0\.0\.1)(:\d+)?$/.test(headers.host);
    const isSameOrigin = [undefined, `http://${headers.host}`].includes(headers.origin);
    const isSameSite = [undefined, "same-origin", "none"].includes(headers["sec-fetch-site"]);
    return isHere && isSameOrigin && isSameSite;
}

// What nodes and debug say reaches the editor by a websocket, which goes round httpAdminMiddleware.
require.main.require("ws").Server.prototype.shouldHandle = isOurs;

module.exports = {
    flowFile: "flows.json",
    // For this machine alone. From elsewhere: ssh -L 1880:127.0.0.1:1880
    uiHost: "127.0.0.1",
    uiPort: process.env.PORT || 1880,
    httpAdminMiddleware: (request, response, next) =>
        isOurs(request) ? next() : response.sendStatus(403),
    // Sampling periods, which devices tell only when they start, outlive a restart.
    contextStorage: { default: { module: "localfilesystem" } },
    // What runs here is what package-lock.json names.
    externalModules: { autoInstall: false, palette: { allowInstall: false } },
    telemetry: { enabled: false, updateNotification: false },
    logging: { console: { level: "info", metrics: false, audit: false } },
};
