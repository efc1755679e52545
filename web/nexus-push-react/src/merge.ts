import jsonMergePatch from 'json-merge-patch';

/** Whether a JSON value is an object (and not null or an array). */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * Applies a JSON Merge Patch (RFC 7396) and returns the result. `target` is not changed; parts of it that
 * the patch does not reach are shared with the result.
 *
 * `json-merge-patch` stops at a member named `__proto__`, `constructor` or `prototype`; such members, and
 * those after them in the same object, are not applied.
 */
export function applyMergePatch(target: unknown, patch: unknown): unknown {
  return jsonMergePatch.apply(copyReached(target, patch), patch);
}

/** Copies those objects of `target` that the library would change, as it changes them in place. */
function copyReached(target: unknown, patch: unknown): unknown {
  if (!isObject(target) || !isObject(patch)) return target;
  const copy = { ...target };
  for (const key of Object.keys(patch)) {
    if (Object.hasOwn(copy, key)) copy[key] = copyReached(copy[key], patch[key]);
  }
  return copy;
}
