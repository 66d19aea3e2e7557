//! The queue's promises, for any sequence of joins, changes of stage and leaves.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

type Queue = FairQueue<u8>;

fn with(preparing: usize, under_way: usize) -> Queue {
    FairQueue::new(Bounds { preparing, under_way })
}

fn in_stage(queue: &Queue, wanted: Stage) -> Vec<Ticket> {
    let mut found: Vec<_> = queue
        .stages
        .iter()
        .filter(|(_, (_, stage))| *stage == wanted)
        .map(|(ticket, _)| *ticket)
        .collect();
    found.sort();
    found
}

#[test]
fn fifty_servers_of_one_user_hold_up_nobody_else() {
    let mut queue = with(1, 1);
    let many: Vec<_> = (0..50).map(|_| queue.join(1)).collect();
    assert_eq!(queue.stage(many[0]), Some(Stage::Preparing));
    assert_eq!(queue.place(many[1]), Some(1));
    assert_eq!(queue.place(many[49]), Some(49));
    let late = queue.join(2);
    assert_eq!(queue.place(late), Some(1), "it has nothing under way");
    assert_eq!(queue.place(many[1]), Some(2));
    queue.leave(many[0]);
    // Both have nothing under way, and the other was served before.
    assert_eq!(queue.stage(late), Some(Stage::Preparing));
    let second = queue.join(2);
    queue.leave(late);
    assert_eq!(queue.stage(many[1]), Some(Stage::Preparing));
    assert_eq!(queue.place(second), Some(1));
    assert_eq!(queue.place(many[2]), Some(2));
}

#[test]
fn whoever_only_waits_for_an_answer_holds_no_place_to_prepare_in() {
    let mut queue = with(1, 3);
    let starts: Vec<_> = (0..5).map(|owner| queue.join(owner)).collect();
    for number in 0..3 {
        assert_eq!(queue.stage(starts[number]), Some(Stage::Preparing));
        assert_eq!(queue.stage(starts[number + 1]), Some(Stage::Waiting));
        queue.prepared(starts[number]);
    }
    // Three servers load: enough.
    assert_eq!(queue.stage(starts[3]), Some(Stage::Waiting));
    queue.leave(starts[1]);
    assert_eq!(queue.stage(starts[3]), Some(Stage::Preparing));
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Join(u8),
    Prepared(usize),
    Leave(usize),
    GiveUp(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0_u8..6).prop_map(Act::Join),
        2 => any::<usize>().prop_map(Act::Prepared),
        2 => any::<usize>().prop_map(Act::Leave),
        1 => any::<usize>().prop_map(Act::GiveUp),
    ];
    prop::collection::vec(act, 0..120)
}

fn play(queue: &mut Queue, act: Act) {
    let pick = |tickets: Vec<Ticket>, number: usize| {
        (!tickets.is_empty()).then(|| tickets[number % tickets.len()])
    };
    match act {
        Act::Join(owner) => {
            queue.join(owner);
        }
        Act::Prepared(number) => {
            let chosen = pick(in_stage(queue, Stage::Preparing), number);
            if let Some(ticket) = chosen {
                queue.prepared(ticket);
            }
        }
        Act::Leave(number) => {
            let mut tickets = in_stage(queue, Stage::Answering);
            tickets.extend(in_stage(queue, Stage::Preparing));
            if let Some(ticket) = pick(tickets, number) {
                queue.leave(ticket);
            }
        }
        Act::GiveUp(number) => {
            let chosen = pick(in_stage(queue, Stage::Waiting), number);
            if let Some(ticket) = chosen {
                queue.leave(ticket);
            }
        }
    }
}

proptest! {
    #[test]
    fn bounds_hold_and_no_place_stays_empty(acts in acts(), preparing in 1_usize..4, more in 0_usize..4) {
        let under_way = preparing + more;
        let mut queue = with(preparing, under_way);
        for act in acts {
            play(&mut queue, act);
            let (busy, answering, waiting) = (
                in_stage(&queue, Stage::Preparing),
                in_stage(&queue, Stage::Answering),
                in_stage(&queue, Stage::Waiting),
            );
            prop_assert_eq!((busy.len(), answering.len()), (queue.preparing, queue.answering));
            prop_assert!(busy.len() <= preparing && busy.len() + answering.len() <= under_way);
            prop_assert!(
                waiting.is_empty() || busy.len() == preparing || busy.len() + answering.len() == under_way,
                "somebody waits before an empty place"
            );
            // Everybody that waits has a place, and no two the same.
            let mut places: Vec<_> =
                waiting.iter().map(|ticket| queue.place(*ticket).unwrap()).collect();
            places.sort_unstable();
            prop_assert_eq!(places, (1..=waiting.len()).collect::<Vec<_>>());
            let kept: usize = queue.owners.values().map(|of| of.waiting.len() + of.under_way).sum();
            prop_assert_eq!(kept, queue.stages.len());
            prop_assert!(queue.owners.values().all(|of| of.waiting.len() + of.under_way > 0));
        }
    }

    #[test]
    fn an_owner_with_nothing_under_way_waits_for_one_start_of_each_other(acts in acts()) {
        let mut queue = with(2, 4);
        for act in acts {
            play(&mut queue, act);
        }
        let newcomer = queue.join(99);
        let others = queue.owners.len() - 1;
        let mut admitted = 0;
        while queue.stage(newcomer) == Some(Stage::Waiting) {
            // The one that is under way longest is done.
            let oldest = *in_stage(&queue, Stage::Answering)
                .iter()
                .chain(&in_stage(&queue, Stage::Preparing))
                .min()
                .unwrap();
            let before = queue.admissions;
            queue.leave(oldest);
            admitted += queue.admissions - before;
        }
        prop_assert!(admitted <= others as u64 + 1, "{} starts went before it", admitted);
    }

    #[test]
    fn everybody_is_served_in_the_end(acts in acts()) {
        let mut queue = with(2, 3);
        for act in acts {
            play(&mut queue, act);
        }
        for _ in 0..queue.stages.len() {
            let busy = in_stage(&queue, Stage::Preparing);
            let next = busy.first().copied().or(in_stage(&queue, Stage::Answering).first().copied());
            queue.leave(next.unwrap());
        }
        prop_assert!(queue.stages.is_empty() && queue.owners.is_empty());
        prop_assert_eq!((queue.preparing, queue.answering), (0, 0));
    }
}
