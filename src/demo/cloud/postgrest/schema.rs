//! The tables of `packaging/supabase/schema.sql`.

use super::Role;
use super::table::{Column, Grant, Kind, Table, Unique};

/// What a gateway writes back to a row of `commands`.
const OUTCOME: &[&str] = &[
    "status",
    "command_id",
    "reason",
    "result",
    "attempts",
    "accepted_at",
    "sent_at",
    "acked_at",
    "finished_at",
];

impl Table {
    /// Where readings go.
    #[must_use]
    pub fn readings() -> Self {
        Self {
            name: "readings",
            columns: vec![
                Column::new("gateway_id", Kind::Text).not_null(),
                Column::new("epoch", Kind::Bigint).not_null(),
                Column::new("seq", Kind::Bigint).not_null(),
                Column::new("device", Kind::Text).not_null(),
                Column::new("stream", Kind::Text).not_null(),
                Column::new("topic", Kind::Text).not_null(),
                Column::new("received_at", Kind::Timestamptz).not_null(),
                Column::new("clock", Kind::Text).not_null().one_of(&[
                    "synchronized",
                    "corrected",
                    "unsynchronized",
                ]),
                Column::new("payload", Kind::Jsonb),
                Column::new("stored_at", Kind::Timestamptz).not_null().default_now(),
            ],
            unique: vec![Unique { name: "readings_pkey", columns: &["gateway_id", "epoch", "seq"] }],
            grants: vec![Grant { role: Role::Gateway, insert_where: None, select: true, update: &[] }],
        }
    }

    /// Where commands come from.
    #[must_use]
    pub fn commands() -> Self {
        let text = |name| Column::new(name, Kind::Text);
        let time = |name| Column::new(name, Kind::Timestamptz);
        Self {
            name: "commands",
            columns: vec![
                Column::new("id", Kind::Bigint).not_null().identity(),
                text("gateway_id").not_null(),
                text("device").not_null(),
                text("topic"),
                Column::new("payload", Kind::Jsonb),
                Column::new("qos", Kind::Bigint),
                text("key"),
                Column::new("good_for_s", Kind::Float8),
                text("reply_topic"),
                text("status").not_null().default_text("queued").one_of(&[
                    "queued",
                    "sent",
                    "acked",
                    "done",
                    "failed",
                    "expired",
                    "refused",
                    "cancelled",
                ]),
                text("command_id"),
                text("reason"),
                text("result"),
                Column::new("attempts", Kind::Bigint).not_null().default_zero(),
                time("accepted_at"),
                time("sent_at"),
                time("acked_at"),
                time("finished_at"),
                time("created_at").not_null().default_now(),
                text("created_by"),
            ],
            unique: vec![Unique { name: "commands_pkey", columns: &["id"] }],
            grants: vec![
                Grant { role: Role::Gateway, insert_where: None, select: true, update: OUTCOME },
                Grant { role: Role::Authenticated, insert_where: None, select: true, update: &[] },
            ],
        }
    }
}
