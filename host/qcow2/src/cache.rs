//! A cache with a bound in bytes: the least recently used entry goes first. Used for L2 tables and for decoded
//! clusters of which only a part was asked for.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by all threads that read a chain. The lock is held for a look-up or an insertion, never during I/O: two
/// threads may load the same entry at once, which costs a read and is right.
pub(crate) struct Cache<K, T> {
    limit: usize,
    state: Mutex<State<K, T>>,
}

struct State<K, T> {
    bytes: usize,
    clock: u64,
    entries: HashMap<K, (u64, Arc<[T]>)>,
    by_age: BTreeMap<u64, K>,
}

impl<K: Copy + Eq + Hash, T> Cache<K, T> {
    pub(crate) fn new(limit: usize) -> Self {
        let state = State { bytes: 0, clock: 0, entries: HashMap::new(), by_age: BTreeMap::new() };
        Self { limit, state: Mutex::new(state) }
    }

    pub(crate) fn get(&self, key: K) -> Option<Arc<[T]>> {
        let state = &mut *self.lock();
        let (age, value) = state.entries.get_mut(&key)?;
        state.by_age.remove(age);
        state.clock += 1;
        *age = state.clock;
        state.by_age.insert(state.clock, key);
        Some(Arc::clone(value))
    }

    pub(crate) fn insert(&self, key: K, value: Arc<[T]>) {
        let state = &mut *self.lock();
        state.clock += 1;
        state.bytes += size_of_val(&*value);
        state.by_age.insert(state.clock, key);
        if let Some((age, old)) = state.entries.insert(key, (state.clock, value)) {
            state.by_age.remove(&age);
            state.bytes -= size_of_val(&*old);
        }
        while state.bytes > self.limit {
            let Some((_, oldest)) = state.by_age.pop_first() else { break };
            if let Some((_, old)) = state.entries.remove(&oldest) {
                state.bytes -= size_of_val(&*old);
            }
        }
    }

    /// A thread that panicked cannot have left the maps half-changed in a way that matters: the worst is an entry
    /// that is not evicted.
    fn lock(&self) -> MutexGuard<'_, State<K, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache: Cache<u32, u8> = Cache::new(30);
        for key in 0..3 {
            cache.insert(key, Arc::from([0_u8; 10]));
        }
        assert!(cache.get(0).is_some());
        cache.insert(3, Arc::from([0_u8; 10]));
        assert!(cache.get(1).is_none());
        assert!(cache.get(0).is_some() && cache.get(2).is_some() && cache.get(3).is_some());
        cache.insert(0, Arc::from([1_u8; 10]));
        assert_eq!(cache.get(0).unwrap()[0], 1);
        assert_eq!(cache.lock().bytes, 30);
    }

    #[test]
    fn an_entry_larger_than_the_cache_does_not_stay() {
        let cache: Cache<u32, u8> = Cache::new(30);
        cache.insert(1, Arc::from([0_u8; 31]));
        assert!(cache.get(1).is_none());
        assert_eq!(cache.lock().bytes, 0);
    }
}
