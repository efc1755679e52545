import { PushProvider } from 'nexus-push-react';
import { lazy, Suspense, useMemo, useState } from 'react';
import { countingSocket, SocketMeter } from '../lib/meter';
import { Markets } from '../markets/Markets';
import { AuthContext, storedToken, storeToken } from './auth';
import { DebugHandle } from './DebugHandle';
import { ErrorBoundary } from './ErrorBoundary';
import { readParams } from './params';
import { useRoute } from './route';
import { Shell } from './Shell';

const Ops = lazy(() => import('../ops/Ops'));

/** Longest wait between two attempts to connect. Shorter than the SDK's, because a trader waits for it. */
const MAX_RECONNECT_DELAY_MS = 8000;

/** The whole page. */
export function App() {
  const params = useMemo(() => readParams(window.location.search), []);
  const [meter] = useState(() => new SocketMeter());
  const [options] = useState(() => ({
    websocket: countingSocket(meter),
    maxReconnectDelay: MAX_RECONNECT_DELAY_MS,
  }));
  const [token, setToken] = useState(storedToken);
  const auth = useMemo(
    () => ({
      token,
      setToken: (next: string | undefined) => {
        storeToken(next);
        setToken(next);
      },
    }),
    [token],
  );
  const route = useRoute();

  return (
    <AuthContext value={auth}>
      {/* Another token is another client of the server: the key makes a new connection. */}
      <PushProvider
        key={token ?? ''}
        token={token}
        options={options}
        {...(params.hiddenAfterMs !== undefined && { hiddenAfterMs: params.hiddenAfterMs })}
      >
        {params.debug && <DebugHandle />}
        <Shell meter={meter} route={route}>
          <ErrorBoundary key={route}>
            {route === 'ops' ? (
              <Suspense fallback={<p className="note">Loading…</p>}>
                <Ops />
              </Suspense>
            ) : (
              <Markets maxRate={params.maxRate} />
            )}
          </ErrorBoundary>
        </Shell>
      </PushProvider>
    </AuthContext>
  );
}
