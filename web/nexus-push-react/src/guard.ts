/**
 * Calls a function of the application; what it throws is reported as an uncaught error. It must not reach
 * the SDK, which ends the connection for good when a handler throws.
 */
export function guarded<A extends unknown[]>(fn: (...args: A) => void, ...args: A): void {
  try {
    fn(...args);
  } catch (error) {
    report(error);
  }
}

function report(error: unknown): void {
  if (typeof reportError === 'function') {
    reportError(error);
    return;
  }
  setTimeout(() => {
    throw error;
  });
}
