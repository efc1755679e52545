import { createContext, type ReactElement, type ReactNode, useEffect, useRef, useState } from 'react';
import { PushClient, type PushClientOptions } from './client.js';

/** The client of the nearest provider. */
export const PushContext = createContext<PushClient | undefined>(undefined);

/** Delay between unmount and close, because StrictMode mounts a provider again at once. */
const CLOSE_AFTER_MS = 200;

/**
 * Props of {@link PushProvider}. `url`, `options`, `hiddenAfterMs` and `client` are read at mount; to change
 * them, give the provider another `key`. A new `token` is used from the next connect on.
 */
export interface PushProviderProps extends Omit<PushClientOptions, 'releaseAfterMs'> {
  /** A client of your own, instead of the other props. The provider connects it, but does not close it. */
  client?: PushClient | undefined;
  children?: ReactNode;
}

/** Connects to the server and provides the connection to the hooks below it. */
export function PushProvider(props: PushProviderProps): ReactElement {
  const { client: given, token, getToken, children } = props;
  const getTokenRef = useRef(getToken);
  const [client] = useState(() => {
    if (given !== undefined) return given;
    // Through the ref, so that the newest function is called, with the current state of the application.
    const latest = (): Promise<string> => getTokenRef.current?.() ?? Promise.resolve('');
    return new PushClient({ ...props, getToken: getToken && latest });
  });
  const owned = given === undefined;

  useEffect(() => {
    getTokenRef.current = getToken;
  }, [getToken]);

  const tokenRef = useRef(token);
  useEffect(() => {
    if (!owned || tokenRef.current === token) return;
    tokenRef.current = token;
    client.centrifuge.setToken(token ?? '');
  }, [client, owned, token]);

  useEffect(() => {
    client.connect();
    return () => {
      if (owned) client.close(CLOSE_AFTER_MS);
    };
  }, [client, owned]);

  return <PushContext value={client}>{children}</PushContext>;
}
