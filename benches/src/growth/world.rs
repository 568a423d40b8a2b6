//! A state directory of its own whose broker tells what goes over the wire.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use deltabus_bus::local::find_server;
use deltabus_bus::monitor::Monitor;
use tokio::runtime::Runtime;

use super::Point;
use crate::join::settle;
use crate::measure::{self, Process, Result};
use crate::pipeline::Deltabus;

/// The program, and its broker under watch.
pub(super) struct World {
    pub(super) deltabus: Deltabus,
    pub(super) broker: Process,
    runtime: Runtime,
    monitor: Monitor,
}

impl World {
    /// With a broker and nothing in it.
    pub(super) fn new() -> Result<World> {
        let deltabus = Deltabus::new()?;
        // The local bus opens no monitoring port; this one is started as it always is, and with one.
        let (server, _) = find_server()?;
        let watched = deltabus.path("nats-server");
        fs::write(&watched, format!("#!/bin/sh\nexec '{}' \"$@\" -m -1\n", server.display()))?;
        fs::set_permissions(&watched, fs::Permissions::from_mode(0o755))?;
        let output = deltabus.command("bus start").env("DELTABUS_NATS_SERVER", &watched).output()?;
        if !output.status.success() {
            return Err(format!("the bus did not start: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let broker = deltabus.broker()?;
        let ports = deltabus.state().join(format!("bus/ports/nats-server_{}.ports", broker.0));
        let ports: serde_json::Value = serde_json::from_slice(&fs::read(ports)?)?;
        let monitor = Monitor::at(ports["monitoring"][0].as_str().ok_or("the broker has no monitoring port")?)?;
        Ok(World { deltabus, broker, runtime: Runtime::new()?, monitor })
    }

    /// Bytes of all messages with their headers, received and sent.
    pub(super) fn wire_bytes(&self) -> Result<f64> {
        let traffic = self.runtime.block_on(self.monitor.look())?.bytes;
        Ok((traffic.received + traffic.sent) as f64)
    }

    /// Runs a command line to its end.
    pub(super) fn step(&self, stage: &str, who: &str, at: u64, line: &str) -> Result<Point> {
        settle()?;
        let bytes = self.wire_bytes()?;
        let broker = self.broker.cpu()?;
        let run = measure::once(&mut self.deltabus.command(line), &[0])?;
        let broker = self.broker.cpu()? - broker;
        let bytes = self.wire_bytes()? - bytes;
        Ok(Point {
            stage: stage.into(),
            who: who.into(),
            at,
            seconds: Some(run.seconds),
            cpu_seconds: Some(run.cpu_seconds),
            peak_mib: Some(run.peak_mib),
            wire_bytes: Some(bytes),
            broker_cpu_seconds: Some(broker),
        })
    }
}

/// Several runs of the same, of which the least counts, and of memory the most.
#[derive(Default)]
pub(super) struct Gathered(pub(super) Vec<Point>);

impl Gathered {
    /// Adds a run.
    pub(super) fn add(&mut self, run: Point) {
        let same =
            self.0.iter_mut().find(|point| (&point.stage, &point.who, point.at) == (&run.stage, &run.who, run.at));
        let Some(point) = same else { return self.0.push(run) };
        let of_both = |one: Option<f64>, other: Option<f64>, choose: fn(f64, f64) -> f64| Some(choose(one?, other?));
        point.seconds = of_both(point.seconds, run.seconds, f64::min);
        point.cpu_seconds = of_both(point.cpu_seconds, run.cpu_seconds, f64::min);
        point.peak_mib = of_both(point.peak_mib, run.peak_mib, f64::max);
        point.wire_bytes = of_both(point.wire_bytes, run.wire_bytes, f64::min);
        point.broker_cpu_seconds = of_both(point.broker_cpu_seconds, run.broker_cpu_seconds, f64::min);
    }
}
