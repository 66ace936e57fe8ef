//! A policy that keeps points of one byte, lets those of two go, says nothing of larger ones, invents a point, and
//! loops where the settings say `loop`.

wit_bindgen::generate!({ path: "../../../sdk/wit", world: "policy" });

use std::hint::black_box;

use exports::tidemark::plugin::decisions::{
    BackupPlan, Candidate, Context, Guest, History, KeepVerdict, PlanType, Point, Selection,
};
use tidemark::plugin::types::{Description, Error};

struct Policy;
export!(Policy);

impl Guest for Policy {
    fn describe() -> Description {
        Description { name: "hostile-policy".into(), version: "0.1.0".into(), contract: "0.1.0".into() }
    }

    fn retain(points: Vec<Point>, context: Context) -> Result<Vec<KeepVerdict>, Error> {
        while context.settings.contains("loop") {
            black_box(());
        }
        let mut verdicts: Vec<KeepVerdict> = points
            .into_iter()
            .filter(|point| point.size_bytes <= 2)
            .map(|point| KeepVerdict {
                reason: (point.size_bytes == 1).then(|| "asked".into()),
                id: point.id,
            })
            .collect();
        verdicts.push(KeepVerdict { id: "ghost".into(), reason: None });
        Ok(verdicts)
    }

    fn select(vm: Candidate, _: Context) -> Result<Selection, Error> {
        let protect = vm.tags.iter().any(|tag| tag == "prod");
        Ok(Selection { protect, reason: "tag".into(), exclude_disks: vec![] })
    }

    fn plan(_: Candidate, history: History, _: Context) -> Result<BackupPlan, Error> {
        let kind = if history.chain_length > 30 { PlanType::Full } else { PlanType::Incremental };
        Ok(BackupPlan { kind, reason: format!("chain of {}", history.chain_length) })
    }
}
