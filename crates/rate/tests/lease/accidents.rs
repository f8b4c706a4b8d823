//! What happens to pods, authorities and the network between them.

use trellis_rate::lease::Incarnation;

use crate::world::{MILLI, Process, World};

impl World {
    pub fn go_wrong(&mut self) {
        if self.faults.network && self.chance.once_in(400) {
            let index = self.chance.between(0, self.processes.len() as u64) as usize;
            self.processes[index].cut_off_until = self.now + self.chance.between(0, 12_000) * MILLI;
        }
        if self.faults.pods {
            self.change_pods();
        }
        if self.faults.authorities {
            self.change_authorities();
        }
    }

    fn change_pods(&mut self) {
        let index = self.chance.between(0, self.processes.len() as u64) as usize;
        let Process { pod, incarnation, .. } = self.processes[index];
        if self.chance.once_in(300) {
            self.processes[index] = self.process(pod, Incarnation(incarnation.0 + 1));
        } else if self.chance.once_in(400) {
            self.processes[index].load = [0, 2, self.limit][self.chance.between(0, 3) as usize];
        } else if self.chance.once_in(500) && self.processes.len() > 1 {
            self.processes.remove(index);
            self.ended.push((pod, self.now));
            for office in &mut self.offices {
                office.authority.pod_ended(pod, office.clock.read(self.now));
            }
        } else if self.chance.once_in(400) && self.processes.len() < 5 {
            self.add_pod();
        }
    }

    fn change_authorities(&mut self) {
        let Some(office) = self.offices.last_mut() else {
            return;
        };
        // It ends in peace, and gives its claim back; or it was silent for too long.
        let is_gone = self.chance.once_in(400);
        if is_gone {
            office.stalled_until = u64::MAX;
        }
        if is_gone || self.now >= office.claimed_until {
            self.take_over();
        } else if self.now >= office.stalled_until && self.chance.once_in(300) {
            // It does not prolong its claim; it may come back and find another in its place.
            office.stalled_until = self.now + self.chance.between(0, 6_000) * MILLI;
        }
    }
}
