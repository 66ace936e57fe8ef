// The policy `my-plugin`: the newest backups stay, and so does everything that is young.
//
// Each answer is a function of its arguments alone: the host gives a policy no clock, no chance and no network, and
// asks it again with the same arguments when it wants to know what another version would have decided.

// As in plugin.toml.
const NAME = 'my-plugin';
const VERSION = '0.1.0';
const CONTRACT = '0.3.0';

// What an administrator may choose; `plugin.toml` declares the same names and defaults.
const DEFAULTS = { newest: 7, days: 14, tag: 'backup', longest_chain: 14 };

// An error of the contract: what is thrown with a payload is the call's answer.
function configError(message) {
  const payload = { kind: { tag: 'config' }, message, retryAfterMs: undefined, detail: undefined };
  return Object.assign(new Error(message), { payload });
}

// An error lets the host keep everything, which a setting that was silently overlooked would not.
function settingsOf(context) {
  let given;
  try {
    given = JSON.parse(context.settings);
  } catch (error) {
    throw configError(`the settings: ${error.message}`);
  }
  const unknown = Object.keys(given).find((name) => !Object.hasOwn(DEFAULTS, name));
  if (unknown !== undefined) {
    throw configError(`the settings: there is no '${unknown}'`);
  }
  return { ...DEFAULTS, ...given };
}

// Why a backup stays; undefined where it may go.
function reasonToKeep(point, { newest, days }) {
  if (point.rank.last < newest) {
    return `one of the newest ${newest}`;
  }
  return point.ageDays < days ? `younger than ${days} days` : undefined;
}

// The interface `decisions` of wit/deps/plugin-0.1.0/policy.wit: names are in camel case, 64-bit numbers are BigInt.
export const decisions = {
  describe() {
    return { name: NAME, version: VERSION, contract: CONTRACT };
  },

  retain(points, context) {
    const settings = settingsOf(context);
    return points.map((point) => ({ id: point.id, reason: reasonToKeep(point, settings) }));
  },

  select(vm, context) {
    const { tag } = settingsOf(context);
    const protect = vm.tags.includes(tag);
    return { protect, reason: protect ? `tag ${tag}` : `no tag ${tag}`, excludeDisks: [] };
  },

  plan(_vm, history, context) {
    const { longest_chain: longest } = settingsOf(context);
    const length = history.chainLength;
    const kind = length === 0 || length >= longest ? 'full' : 'incremental';
    return { kind, reason: `${length} backups in the chain` };
  },
};
