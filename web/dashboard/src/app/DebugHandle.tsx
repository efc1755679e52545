import { type PushClient, usePushClient } from 'nexus-push-react';
import { useEffect } from 'react';

declare global {
  interface Window {
    /** With `?debug` only. */
    __nexus?: { client: PushClient };
  }
}

/** Puts the client where a console or a test can reach it. */
export function DebugHandle() {
  const client = usePushClient();
  useEffect(() => {
    window.__nexus = { client };
    return () => {
      delete window.__nexus;
    };
  }, [client]);
  return null;
}
