//! Who may do heavy work now: a bounded queue with priorities, fair between users, with ageing.
//!
//! Heavy steps take a [`Turn`] each: moving one buffer of a long upload or download (hashing,
//! writing, reading it), a batch of an expensive request (a page of a recursive listing, some
//! entries of a directory that is copied), or all of an administrator's long work (a check). Each
//! of these kinds has a [`Lane`] of its own, so that what takes long never keeps the others from
//! moving. Bodies that ride in their commit take no turn.
//!
//! Who is next: the highest priority; of several the user who has the fewest turns now, then the
//! one who was served longest ago, then who came first. So a user with many streams gets no more
//! than one with a single stream. Waiting raises: after each [`AGE_STEP`] a step counts as one
//! priority higher. Hence the bound: after [`AGE_STEP`] times its priority (4 s for the lowest) a
//! step stands before all that come later of the same user, and waits for at most one turn of
//! each other user who waits.
//!
//! Large uploads have few slots only while small changes are made, and rest between their steps
//! while one is on its way ([`way`]); downloads have few only while several users want them. Else
//! they have many: to wait for a turn that is taken from nobody only costs time.
//!
//! Promises: no more turns at once than slots; no slot is free while somebody waits; a
//! waiter that goes away leaves the queue, and a turn that is dropped, in a panic too, passes on;
//! what would make the queue longer than its bound is refused at once. What was let in is never
//! refused later: a running upload only waits.
//!
//! Not here: memory (`larder_base::memory`), rates and connections (the doors).

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use larder_base::{Env, ErrorKind, Memory, Timestamp, id::UserId};
use tokio::sync::oneshot;
use way::{Traffic, Way};

use crate::{
    Larder,
    access::require_admin,
    caller::Caller,
    error::{Error, Result},
    metrics,
};

mod way;

/// After how long a waiting step counts as one priority higher.
pub(crate) const AGE_STEP: Duration = Duration::from_millis(500);

/// How many times more there are then, and for downloads while one user alone wants them. Each of
/// them uses two threads, and handing over takes its time: so many reach the rate of uploads, and
/// of downloads, that never wait.
const MORE_FACTOR: usize = 8;

/// How urgent something is: 0 is the most urgent, as in RFC 9218 section 4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    /// What a request has that does not say.
    pub const DEFAULT: Self = Self(3);

    /// The least that a request can ask for.
    pub const LOWEST: Self = Self(7);

    /// That of work which nobody waits for.
    pub const BACKGROUND: Self = Self(8);

    /// The priority with this RFC 9218 urgency; larger ones are the lowest.
    pub fn from_urgency(urgency: u8) -> Self {
        Self(urgency.min(Self::LOWEST.0))
    }

    /// Its number, from 0 for the most urgent to 8.
    pub fn number(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// For whom something is done.
#[derive(Clone, Debug)]
pub struct Client {
    /// Whose share of the turns it takes from.
    pub user: UserId,
    /// The user's name.
    pub name: Arc<str>,
    /// How urgent it is.
    pub priority: Priority,
}

impl Client {
    /// The server itself, in the background: nobody waits for it.
    pub(crate) fn background() -> Self {
        let user = UserId::from_bytes([0; 16]);
        Self { user, name: Arc::from("(server)"), priority: Priority::BACKGROUND }
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Contents on their way in.
    Upload,
    /// Contents on their way out.
    Download,
    /// A recursive listing.
    List,
    /// The copy of a directory.
    Copy,
    /// Proving every invariant.
    Check,
    /// Giving back what nothing refers to.
    Collect,
    /// Writing or reading a dump.
    Dump,
}

impl Class {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
            Self::List => "list",
            Self::Copy => "copy",
            Self::Check => "check",
            Self::Collect => "collect",
            Self::Dump => "dump",
        }
    }
}

/// What a task does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It waits for its turn.
    Waiting,
    /// It has its turn.
    Running,
    /// It needs none now: it waits for its client.
    Idle,
}

impl TaskState {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Idle => "idle",
        }
    }
}

/// One task, as an administrator sees it.
#[derive(Clone, Debug)]
pub struct TaskInfo {
    /// Number in the order in which tasks began.
    pub number: u64,
    /// For whom.
    pub client: Client,
    /// What.
    pub class: Class,
    /// What it does now.
    pub state: TaskState,
    /// When it began.
    pub begun: Timestamp,
    /// Since when it is in this state.
    pub since: Timestamp,
}

/// How much work is done at once.
#[derive(Clone, Debug)]
pub struct WorkSettings {
    /// Buffers of uploads that are moved at once while small changes are made now and then, half
    /// as many while one follows the other, eight times as many while none are; of downloads
    /// twice as many while several users want them, eight times as many for one alone; and half
    /// as many batches of expensive requests. `None` is one for each core. Measured with 16
    /// uploads of 256 MiB on two cores: one slot costs them half of their rate, more than two
    /// make a small request of somebody else wait up to ten times as long. Downloads hold up
    /// nobody's syncs, and 16 of 1 MiB lose a third of their rate to handing over with two slots,
    /// a tenth with four.
    pub slots: Option<usize>,
    /// Of the time, what large uploads take while one small change follows the other, in percent
    /// from 1 to 100. Measured on two cores beside four uploads as fast as they go: the 99th
    /// percentile of a small upload is 1.5 times what it is alone with 25, twice with 50, and
    /// seven times with neither this nor short steps.
    pub upload_percent: u32,
    /// Steps that wait at the most before further tasks are refused.
    pub queue_max: usize,
}

impl Default for WorkSettings {
    fn default() -> Self {
        Self { slots: None, upload_percent: 25, queue_max: 1024 }
    }
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) running: u64,
    pub(crate) waiting: u64,
    pub(crate) tasks: u64,
    pub(crate) refused: u64,
    pub(crate) rests: u64,
}

/// All heavy work of a process.
#[derive(Debug)]
pub(crate) struct Work {
    uploads: Arc<Lane>,
    downloads: Arc<Lane>,
    requests: Arc<Lane>,
    long: Arc<Lane>,
}

impl Work {
    pub(crate) fn new(settings: &WorkSettings, env: &Env) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let slots = settings.slots.unwrap_or_else(cores).max(1);
        let new = |slots| Lane::new(slots, settings.queue_max, env.clone());
        let lane = |slots| Arc::new(new(slots));
        let way = Way::new(settings.upload_percent);
        Self {
            uploads: Arc::new(Lane { more: More::Unhindered(way), ..new(slots) }),
            downloads: Arc::new(Lane { more: More::Alone(MORE_FACTOR * slots), ..new(2 * slots) }),
            requests: lane((slots / 2).max(1)),
            long: lane(1),
        }
    }

    /// Begins a task; `Busy` at once if too many steps wait already.
    pub(crate) fn enter(&self, client: &Client, class: Class) -> Result<Task> {
        let lane = match class {
            Class::Upload => &self.uploads,
            Class::Download => &self.downloads,
            Class::List | Class::Copy => &self.requests,
            Class::Check | Class::Collect | Class::Dump => &self.long,
        };
        lane.enter(client, class)
    }

    /// Begins a task of one step and waits for its turn.
    pub(crate) async fn admit(&self, client: &Client, class: Class) -> Result<Admitted> {
        let task = self.enter(client, class)?;
        let turn = task.turn().await;
        Ok(Admitted { _turn: turn, _task: task })
    }

    /// Every task, in the order in which they began.
    pub(crate) fn tasks(&self) -> Vec<TaskInfo> {
        let mut all: Vec<_> = self.lanes().iter().flat_map(|lane| lane.tasks()).collect();
        all.sort_by_key(|task| (task.begun, task.number));
        all
    }

    pub(crate) fn figures(&self) -> Figures {
        self.lanes().iter().map(|lane| lane.figures()).fold(Figures::default(), |sum, lane| {
            Figures {
                running: sum.running + lane.running,
                waiting: sum.waiting + lane.waiting,
                tasks: sum.tasks + lane.tasks,
                refused: sum.refused + lane.refused,
                rests: sum.rests + lane.rests,
            }
        })
    }

    /// A small change is made until what this answers is dropped: large uploads give it way.
    pub(crate) fn small_change(&self) -> SmallChange {
        if let Some(way) = self.uploads.way() {
            way.begin_small();
        }
        SmallChange { lane: Arc::clone(&self.uploads) }
    }

    fn lanes(&self) -> [&Arc<Lane>; 4] {
        [&self.uploads, &self.downloads, &self.requests, &self.long]
    }
}

/// A change that is over soon, and that somebody waits for.
#[derive(Debug)]
pub(crate) struct SmallChange {
    lane: Arc<Lane>,
}

impl Drop for SmallChange {
    fn drop(&mut self) {
        if let Some(way) = self.lane.way() {
            way.end_small(self.lane.env.monotonic());
        }
    }
}

/// A task of one step that has its turn, which ends with this.
#[derive(Debug)]
pub struct Admitted {
    _turn: Turn,
    _task: Task,
}

impl Larder {
    /// Waits for the turn of an expensive request of `caller`, which lasts until what this
    /// answers is dropped. `Busy` at once if too much work waits already.
    pub async fn admit(&self, caller: &Caller, class: Class) -> Result<Admitted> {
        self.inner.work.admit(&caller.client(), class).await
    }

    /// The heavy work that runs, waits, or waits for its client. `Denied` to others than
    /// administrators.
    pub fn tasks(&self, caller: &Caller) -> Result<Vec<TaskInfo>> {
        require_admin(caller)?;
        Ok(self.inner.work.tasks())
    }

    /// The budget that the buffers of all requests draw from.
    pub fn memory(&self) -> &Memory {
        &self.inner.config.memory
    }

    /// Appends the figures of work and memory as OpenMetrics text.
    pub(crate) fn render_work(&self, text: &mut String) {
        let Figures { running, waiting, tasks, refused, rests } = self.inner.work.figures();
        let memory = self.inner.config.memory.figures();
        let used: usize = memory.by_use.iter().sum();
        let figures = [running, waiting, tasks, refused, rests].into_iter();
        let bytes = [memory.budget, used].into_iter().chain(memory.by_use).chain([memory.waiting]);
        let figures = figures.chain(bytes.map(|bytes| bytes as u64));
        let figures = figures.chain([memory.waits, memory.refusals]);
        for ((name, help), value) in metrics::WORK.iter().zip(figures) {
            metrics::render_figure(text, name, help, value);
        }
    }
}

/// Slots, and who wants one.
struct Lane {
    slots: usize,
    more: More,
    queue_max: usize,
    env: Env,
    state: Mutex<State>,
}

/// When there are more slots, and how many.
enum More {
    Never,
    /// [`MORE_FACTOR`] times as many while there are no small changes to give way to; half as
    /// many while one is on its way.
    Unhindered(Way),
    /// So many while all who have a turn or wait for one are the same user.
    Alone(usize),
}

#[derive(Default)]
struct State {
    running: usize,
    waiting: Vec<Waiter>,
    /// Users with turns or waiters.
    users: BTreeMap<UserId, Standing>,
    tasks: BTreeMap<u64, Entry>,
    next_task: u64,
    next_waiter: u64,
    served: u64,
    refused: u64,
}

#[derive(Default)]
struct Standing {
    running: usize,
    waiting: usize,
    /// When the user was served last, counted in turns.
    served: u64,
}

struct Entry {
    client: Client,
    class: Class,
    begun: Timestamp,
    since: Timestamp,
    running: usize,
    waiting: usize,
}

struct Waiter {
    number: u64,
    task: u64,
    user: UserId,
    priority: Priority,
    since: Duration,
    serve: oneshot::Sender<Turn>,
}

impl Lane {
    fn new(slots: usize, queue_max: usize, env: Env) -> Self {
        Self { slots, more: More::Never, queue_max, env, state: Mutex::default() }
    }

    /// Where others come first.
    fn way(&self) -> Option<&Way> {
        match &self.more {
            More::Unhindered(way) => Some(way),
            More::Never | More::Alone(_) => None,
        }
    }

    /// How many turns there may be now if `user` gets one of them.
    fn limit(&self, state: &State, user: UserId) -> usize {
        match &self.more {
            More::Unhindered(way) => match way.traffic(self.env.monotonic()) {
                Traffic::Now => (self.slots / 2).max(1),
                Traffic::Lately => self.slots,
                Traffic::None => MORE_FACTOR * self.slots,
            },
            More::Alone(slots) if state.users.keys().all(|other| *other == user) => *slots,
            More::Never | More::Alone(_) => self.slots,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, client: &Client, class: Class) -> Result<Task> {
        let now = self.env.now();
        let mut state = self.state();
        if state.waiting.len() >= self.queue_max {
            state.refused += 1;
            let waiting = state.waiting.len();
            drop(state);
            return Err(self.busy(waiting));
        }
        let number = state.next_task;
        state.next_task += 1;
        let client = client.clone();
        let user = client.user;
        let priority = client.priority;
        let entry = Entry { client, class, begun: now, since: now, running: 0, waiting: 0 };
        state.tasks.insert(number, entry);
        drop(state);
        Ok(Task { lane: Arc::clone(self), number, user, priority })
    }

    fn busy(&self, waiting: usize) -> Error {
        // Nobody knows how long the steps before will take; more of them take longer.
        let seconds = (waiting / self.slots / 64).clamp(1, 30) as u64;
        Error::new(ErrorKind::Busy, "too much work is waiting; try again later")
            .with_retry_after(Duration::from_secs(seconds))
    }

    /// A turn now, if a slot is free and nobody waits.
    fn try_turn(self: &Arc<Self>, task: &Task) -> Option<Turn> {
        let mut state = self.state();
        if state.running >= self.limit(&state, task.user) || !state.waiting.is_empty() {
            return None;
        }
        state.begin(task.number, task.user, self.env.now());
        Some(self.turn(task.number, task.user))
    }

    fn turn(self: &Arc<Self>, task: u64, user: UserId) -> Turn {
        Turn { lane: Some(Arc::clone(self)), task, user, since: None }
    }

    /// Gives free slots to those who are next.
    fn serve(self: &Arc<Self>) {
        loop {
            let mut state = self.state();
            let Some(at) = state.next(self.env.monotonic()) else { return };
            let waiter = state.waiting.swap_remove(at);
            if state.running >= self.limit(&state, waiter.user) {
                state.waiting.push(waiter);
                return;
            }
            let now = self.env.now();
            state.left(waiter.task, waiter.user, now);
            state.begin(waiter.task, waiter.user, now);
            drop(state);
            let turn = self.turn(waiter.task, waiter.user);
            if let Err(mut turn) = waiter.serve.send(turn) {
                // It has gone away. Not by its drop: that would go as deep as waiters are many.
                turn.lane = None;
                self.state().end(turn.task, turn.user, now);
            }
        }
    }

    fn tasks(&self) -> Vec<TaskInfo> {
        let state = self.state();
        let info = |(number, entry): (&u64, &Entry)| TaskInfo {
            number: *number,
            client: entry.client.clone(),
            class: entry.class,
            state: entry.state(),
            begun: entry.begun,
            since: entry.since,
        };
        state.tasks.iter().map(info).collect()
    }

    fn figures(&self) -> Figures {
        let state = self.state();
        Figures {
            running: state.running as u64,
            waiting: state.waiting.len() as u64,
            tasks: state.tasks.len() as u64,
            refused: state.refused,
            rests: self.way().map_or(0, Way::rests),
        }
    }
}

impl Entry {
    fn state(&self) -> TaskState {
        match (self.running, self.waiting) {
            (0, 0) => TaskState::Idle,
            (0, _) => TaskState::Waiting,
            _ => TaskState::Running,
        }
    }
}

impl State {
    /// Which waiter is next.
    fn next(&self, now: Duration) -> Option<usize> {
        let rank = |waiter: &Waiter| {
            let aged = now.saturating_sub(waiter.since).as_millis() / AGE_STEP.as_millis();
            let aged = u8::try_from(aged).unwrap_or(u8::MAX);
            let standing = self.users.get(&waiter.user);
            let (running, served) = standing.map_or((0, 0), |user| (user.running, user.served));
            (waiter.priority.0.saturating_sub(aged), running, served, waiter.number)
        };
        let ranked = self.waiting.iter().enumerate();
        ranked.max_by_key(|(_, waiter)| Reverse(rank(waiter))).map(|(at, _)| at)
    }

    /// Notes a change of a task at `now`.
    fn change(&mut self, task: u64, now: Timestamp, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.tasks.get_mut(&task) {
            let before = entry.state();
            change(entry);
            if entry.state() != before {
                entry.since = now;
            }
        }
    }

    fn begin(&mut self, task: u64, user: UserId, now: Timestamp) {
        self.running += 1;
        self.served += 1;
        let served = self.served;
        let standing = self.users.entry(user).or_default();
        standing.running += 1;
        standing.served = served;
        self.change(task, now, |entry| entry.running += 1);
    }

    fn end(&mut self, task: u64, user: UserId, now: Timestamp) {
        self.running = self.running.saturating_sub(1);
        self.standing(user, |standing| standing.running = standing.running.saturating_sub(1));
        self.change(task, now, |entry| entry.running = entry.running.saturating_sub(1));
    }

    /// A waiter of `task` has left the queue.
    fn left(&mut self, task: u64, user: UserId, now: Timestamp) {
        if let Some(standing) = self.users.get_mut(&user) {
            standing.waiting = standing.waiting.saturating_sub(1);
        }
        self.change(task, now, |entry| entry.waiting = entry.waiting.saturating_sub(1));
    }

    /// Changes what is known of a user, and forgets one without turns and waiters.
    fn standing(&mut self, user: UserId, change: impl FnOnce(&mut Standing)) {
        if let Some(standing) = self.users.get_mut(&user) {
            change(standing);
            if standing.running == 0 && standing.waiting == 0 {
                self.users.remove(&user);
            }
        }
    }
}

/// Something that takes turns. Dropping it ends it.
pub(crate) struct Task {
    lane: Arc<Lane>,
    number: u64,
    user: UserId,
    priority: Priority,
}

impl Task {
    /// Most bytes that the next step should have, as far as others are concerned.
    pub(crate) fn step_bytes_max(&self) -> usize {
        let most = |way: &Way| way.step_bytes_max(self.lane.env.monotonic());
        self.lane.way().map_or(usize::MAX, most)
    }

    /// Waits for the next turn. Cancel-safe: whoever goes away leaves the queue.
    pub(crate) async fn turn(&self) -> Turn {
        let mut turn = self.next_turn().await;
        if let Some(way) = self.lane.way() {
            // With the turn: nobody else could use it.
            way.rest(&self.lane.env).await;
            turn.since = Some(self.lane.env.monotonic());
        }
        turn
    }

    async fn next_turn(&self) -> Turn {
        loop {
            if let Some(turn) = self.lane.try_turn(self) {
                return turn;
            }
            let (serve, served) = oneshot::channel();
            let place = self.queue(serve);
            // A slot may have become free between the two.
            self.lane.serve();
            let turn = served.await;
            drop(place);
            // The sender lives in the queue until it has sent.
            if let Ok(turn) = turn {
                return turn;
            }
        }
    }

    fn queue(&self, serve: oneshot::Sender<Turn>) -> Place<'_> {
        let (since, now) = (self.lane.env.monotonic(), self.lane.env.now());
        let mut state = self.lane.state();
        let number = state.next_waiter;
        state.next_waiter += 1;
        let (task, user, priority) = (self.number, self.user, self.priority);
        state.waiting.push(Waiter { number, task, user, priority, since, serve });
        state.users.entry(user).or_default().waiting += 1;
        state.change(task, now, |entry| entry.waiting += 1);
        Place { task: self, number }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.lane.state().tasks.remove(&self.number);
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Task({})", self.number)
    }
}

/// A place in the queue; gives it up when dropped.
struct Place<'a> {
    task: &'a Task,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let now = self.task.lane.env.now();
        let mut state = self.task.lane.state();
        let found = state.waiting.iter().position(|waiter| waiter.number == self.number);
        if let Some(at) = found {
            state.waiting.swap_remove(at);
            state.left(self.task.number, self.task.user, now);
            state.standing(self.task.user, |_| {});
            drop(state);
            // Who is alone now has more slots.
            self.task.lane.serve();
        }
    }
}

/// The right to do one heavy step. Dropping it passes it on.
pub(crate) struct Turn {
    lane: Option<Arc<Lane>>,
    task: u64,
    user: UserId,
    /// Since when the step is done, where others come first.
    since: Option<Duration>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            if let (Some(way), Some(since)) = (lane.way(), self.since) {
                let now = lane.env.monotonic();
                way.worked(now, now.saturating_sub(since));
            }
            lane.state().end(self.task, self.user, lane.env.now());
            lane.serve();
        }
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Turn({})", self.task)
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { running, waiting, .. } = self.figures();
        write!(f, "Lane({running} of {} run, {waiting} wait)", self.slots)
    }
}

#[cfg(test)]
mod tests;
