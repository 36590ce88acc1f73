"""What Grafana shows of the chain: dashboards, alerts, data sources."""
